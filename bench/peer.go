package main

import (
	"context"
	"net"
	"strings"
	"time"
)

// store is one library, set up the way its own documentation recommends, and
// reading through the cache: what is missing is loaded and stored. Its keys are
// made of setup.prefix and an id for each call, as a service does.
type store interface {
	// Bytes returns id's value, in whichever of string and []byte the library
	// has, without a copy of ours (see view).
	Bytes(ctx context.Context, id string) (string, error)

	// Messages returns id's history, decoded.
	Messages(ctx context.Context, id string) ([]Message, error)

	// Invalidate removes id after a write, as the library documents it.
	Invalidate(ctx context.Context, id string) error

	Close()
}

// updater is a store that also wraps the write itself.
type updater interface {
	Update(ctx context.Context, id string, write func(context.Context) error) error
}

// manyInvalidator is a store that removes several ids at once.
type manyInvalidator interface {
	InvalidateMany(ctx context.Context, ids []string) error
}

// setup is what a store is opened with.
type setup struct {
	addr   string  // of Redis
	prefix string  // of every key, followed by ":"
	source *source // where loaders read

	ttl          time.Duration // of values; 0 is the usual one
	refreshAfter time.Duration // of those who can; 0 is a minute less than that

	// entries and maxBytes bound caches in the process, for those that can.
	entries  int
	maxBytes int64
}

// lifetime is how long values are kept.
func (s setup) lifetime() time.Duration { return or(s.ttl, ttl) }

// refreshAge is the age from which values are loaded again: in the usual case one that
// none reaches.
func (s setup) refreshAge() time.Duration { return or(s.refreshAfter, ttl-time.Minute) }

func (s setup) key(id string) string { return s.prefix + ":" + id }

// id is the id of a key.
func (s setup) id(key string) string { return strings.TrimPrefix(key, s.prefix+":") }

// peer is a library, or one way to use it.
type peer struct {
	name   string
	module string // whose version is reported
	how    string // it is used
	open   func(setup) (store, error)

	near    bool   // it keeps values in the process, in front of Redis
	memory  bool   // there is no Redis
	shared  bool   // it differs only in that callers share decoded values: hits tell
	updates bool   // it is written to with Update in place of Invalidate
	only    string // the one scenario that it is for, if any
}

// throughRedis reports whether p is for what is between callers and Redis: near
// caches, which would repeat the rows of the same library, are not, except for
// rueidisaside, which comes with one.
func (p peer) throughRedis() bool {
	return (!p.near || p.name == "rueidisaside") && !p.memory && !p.shared
}

// baseline is the peer that ratios refer to.
const (
	baseline        = "go-redis GET, by hand"
	memoryBaseline  = "otter GetIfPresent"
	loadingBaseline = "otter Get with a loader" // of caches in memory that load
)

// peers are all that is measured, in the order of the tables.
func peers() []peer {
	var all []peer
	all = append(all, asidePeers()...)
	all = append(all, clientPeers()...)
	all = append(all, libraryPeers()...)
	all = append(all, memoryPeers()...)
	return all
}

// peersOf returns those that scenario and want choose.
func peersOf(scenario string, want func(peer) bool) []peer {
	var out []peer
	for _, p := range peers() {
		if (p.only == "" || p.only == scenario) && want(p) {
			out = append(out, p)
		}
	}
	return out
}

func names(ps []peer) []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.name)
	}
	return out
}

// way is a way to use a peer that has a row of its own: something done with id.
type way struct {
	name string
	op   func(ctx context.Context, st store, id string) error
}

// rowsOf are the names of the ways of all peers.
func rowsOf(ways func(peer) []way) []string {
	var out []string
	for _, p := range peers() {
		for _, w := range ways(p) {
			out = append(out, w.name)
		}
	}
	return out
}

// freePort returns an address on this machine that is free.
func freePort() (addr string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// localTTL is how long the two-level libraries keep a value in the process, in
// their own documentation's examples.
const localTTL = time.Minute
