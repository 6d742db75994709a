package redisstore

import (
	"errors"

	"github.com/redis/go-redis/v9"
)

// Troubles are the beginnings of replies of a Redis that cannot serve any command: it is
// loading, it refuses this user, or it has no such database. They are without the "ERR " that
// some have in front, as go-redis compares them. A test sends each.
var Troubles = []string{
	"LOADING", "CLUSTERDOWN", "MASTERDOWN", "BUSY", "NOAUTH", "WRONGPASS", "DENIED", "max number of clients",
	"DB index", "invalid DB", "SELECT", "AUTH", "invalid password", "Client sent AUTH", "This instance has cluster",
}

// Answered reports whether err shows that the server is up: it is a reply, and none of
// Troubles. It is false for nil.
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
