package redisstore

import (
	"errors"

	"github.com/redis/go-redis/v9"
)

// Troubles are how replies start that say that nothing will work, without the "ERR " in
// front of some, as go-redis compares them. Each is sent by a test.
var Troubles = []string{
	"LOADING", "CLUSTERDOWN", "MASTERDOWN", "BUSY", "NOAUTH", "WRONGPASS", "DENIED", "max number of clients",
	"DB index", "invalid DB", "SELECT", "AUTH", "invalid password", "Client sent AUTH", "This instance has cluster",
}

// Answered reports whether err shows that the backend is up: it is a reply, and
// not one of a Redis that cannot serve yet or any more.
func Answered(err error) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	for _, prefix := range Troubles {
		if redis.HasErrorPrefix(err, prefix) {
			return false
		}
	}
	return true
}
