package main

import (
	"context"
	"net"
	"strings"
	"time"
)

// store is one library, set up as its own documentation recommends. Its reads go through the
// cache: a missing value is loaded and stored. Each call makes the key from setup.prefix and
// the id, as a service does, so that time counts for all libraries.
type store interface {
	// Bytes returns id's value. It does not copy the bytes of a library that has []byte
	// (see view), nor makes bytes of a string.
	Bytes(ctx context.Context, id string) (string, error)

	// Messages returns id's history, decoded.
	Messages(ctx context.Context, id string) ([]Message, error)

	// Invalidate removes id's value after a write, as the library documents it.
	Invalidate(ctx context.Context, id string) error

	// Close closes the library's clients and ends its goroutines, as far as it can.
	Close()
}

// updater is a store that also has a call around the write itself.
type updater interface {
	Update(ctx context.Context, id string, write func(context.Context) error) error
}

// manyInvalidator is a store that removes the values of several ids in one call.
type manyInvalidator interface {
	InvalidateMany(ctx context.Context, ids []string) error
}

// setup is the configuration of a store.
type setup struct {
	addr   string  // of Redis
	prefix string  // of every key, followed by ":"
	source *source // the database of the loaders

	ttl          time.Duration // of values; 0 means the constant ttl
	refreshAfter time.Duration // for libraries that refresh; 0 means a minute less than ttl

	// entries and maxBytes bound caches in the process. A library uses the one that it has.
	entries  int
	maxBytes int64
}

// lifetime returns how long values are kept.
func (s setup) lifetime() time.Duration { return or(s.ttl, ttl) }

// refreshAge returns the age from which values are loaded again. By default no value gets
// that old in a measurement, so the price of having refreshes is measured, not theirs.
func (s setup) refreshAge() time.Duration { return or(s.refreshAfter, ttl-time.Minute) }

func (s setup) key(id string) string { return s.prefix + ":" + id }

// id returns the id that a key is made from.
func (s setup) id(key string) string { return strings.TrimPrefix(key, s.prefix+":") }

// peer is a library, or one way to use it.
type peer struct {
	name   string
	module string // the report has its version
	how    string // the way it is used, for the report
	open   func(setup) (store, error)

	near    bool   // it keeps values in the process, in front of Redis
	memory  bool   // it keeps values in the process only
	shared  bool   // its callers share decoded values, which only hits can show
	updates bool   // writes call Update in place of Invalidate
	only    string // the one scenario that it is for; "" means all
}

// throughRedis reports whether p belongs into scenarios about the traffic with Redis. A near
// cache would repeat the rows of the same library without one; rueidisaside cannot be used
// without.
func (p peer) throughRedis() bool {
	return (!p.near || p.name == "rueidisaside") && !p.memory && !p.shared
}

// The peers that ratios refer to.
const (
	baseline        = "go-redis GET, by hand"
	memoryBaseline  = "otter GetIfPresent"
	loadingBaseline = "otter Get with a loader" // for caches in memory that load missing values
)

// peers returns all peers, in the order of the tables.
func peers() []peer {
	var all []peer
	all = append(all, asidePeers()...)
	all = append(all, clientPeers()...)
	all = append(all, libraryPeers()...)
	all = append(all, memoryPeers()...)
	return all
}

// peersOf returns the peers for a scenario that want chooses.
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

// way is a way to use a peer, with a row of its own in a table.
type way struct {
	name string
	op   func(ctx context.Context, st store, id string) error
}

// rowsOf returns the names of the ways of all peers, which are the rows of a table.
func rowsOf(ways func(peer) []way) []string {
	var out []string
	for _, p := range peers() {
		for _, w := range ways(p) {
			out = append(out, w.name)
		}
	}
	return out
}

// freePort returns an address of this machine on which nothing listens.
func freePort() (addr string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// localTTL is how long libraries with two levels keep a value in the process. It is the time in
// the examples of their documentation.
const localTTL = time.Minute
