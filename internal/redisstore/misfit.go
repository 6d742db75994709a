// Servers that answer and yet cannot be used, and errors that look like replies and are not.
//
// Every error of the client passes through told, which tells three kinds apart: a reply to the
// command, a sign that the server is a misfit, and an error of getting to the server. The last
// kind must not count as a reply even when one is wrapped in it (to AUTH, say), since a reply
// shows that the server is up. go-redis tells the two apart by their texts only (wayTexts).
//
// Once a misfit is found, no command is sent; every command rechecks the server instead
// (recheck), one at a time, until it or another behind the same address is none.

package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/internal/foreign"
)

const (
	// LookInterval is how often a Redis in use is asked for its role. A master that has
	// become a replica is read from for no longer than that and one Timeout.
	LookInterval = 2 * time.Second
	// misfitSettles is how long after a misfit was found it is not cleared. Commands may
	// still be on connections to it for that long, and give them back to the pool.
	misfitSettles = 500 * time.Millisecond
)

// Misfit is a server that answers and that a client of one node cannot be used with: a
// replica, which may not have seen an invalidation; a node of a Cluster, which has a part of
// the keys; a Sentinel; a version that is too old. It is the error of all commands, and so
// opens the breaker, until the server, or another that the address leads to by then, is none.
type Misfit struct {
	what  string // the kind, and the setting or the client that is wanted
	found time.Time
}

// Error returns the kind of the misfit, and the setting or the client that is wanted.
func (m *Misfit) Error() string { return m.what }

// The kinds of misfits. Each has a text for users of Open and, where it differs, one for
// users of NewRedis.
var (
	aReplica  = [2]string{"the server is a replica, which may not have seen an invalidation yet: want the address of its master"}
	inCluster = [2]string{
		"the server is a node of a Redis Cluster: want Config.Redis.Cluster (REDIS_CLUSTER=true)",
		"the server is a node of a Redis Cluster: want a client of redis.NewClusterClient"}
	aSentinel = [2]string{
		"the server is a Sentinel: want Config.Redis.SentinelMaster (REDIS_SENTINEL_MASTER) with the master's name",
		"the server is a Sentinel: want a client of redis.NewFailoverClient"}
)

// oldest is the first major version of Redis that runs the scripts. Valkey and other
// servers report the version of Redis that they are compatible with.
const oldest = 6

// tooOld is the misfit of a server whose INFO names a version before oldest. A server
// that names none is not judged.
func tooOld(info string) (kind [2]string, is bool) {
	version := infoField(info, "redis_version")
	major, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	return [2]string{fmt.Sprintf("the server is Redis %s: want Redis %d.0 or later, or Valkey", version, oldest)}, err == nil && n < oldest
}

// isMisfit notes that the server is a misfit of this kind, and returns the misfit. If one was
// noted before, it returns that.
func (b *Store) isMisfit(kind [2]string) *Misfit {
	m := &Misfit{what: kind[0], found: time.Now()}
	if !b.Owned && kind[1] != "" {
		m.what = kind[1]
	}
	if !b.misfit.CompareAndSwap(nil, m) {
		if known := b.misfit.Load(); known != nil {
			return known
		}
		return m
	}
	b.moves.Add(1)
	return m
}

// told takes the error with which the client ended a command, and returns the one to go on
// with: a *Misfit if the reply shows one; an error without a reply in it if the client did
// not get to the server, although the original may wrap a reply to AUTH, SELECT or CLUSTER
// SLOTS, or of a Sentinel; otherwise err, without secrets.
func (b *Store) told(err error) error {
	if err == nil {
		if !b.reached.Load() {
			b.reached.Store(true)
		}
		return nil
	}
	err = b.secretsOut(err)
	reply, own := ownReply(err)
	if !own || reply == redis.Nil && b.doubts {
		return b.unreached(err)
	}
	if b.node != nil {
		switch {
		case redis.HasErrorPrefix(reply, "READONLY"):
			return b.isMisfit(aReplica)
		case redis.HasErrorPrefix(reply, "MOVED"), redis.HasErrorPrefix(reply, "ASK"), redis.HasErrorPrefix(reply, "CROSSSLOT"):
			return b.isMisfit(inCluster)
		}
	}
	if b.cluster != nil && redis.HasErrorPrefix(reply, "This instance has cluster") {
		return b.unreached(err)
	}
	b.reached.Store(true)
	return err
}

// secretsOut returns err without the secrets that a server may have repeated in it. It must
// come before anything else is done with an error of the client.
func (b *Store) secretsOut(err error) error {
	switch err.(type) {
	case *Misfit, *foreign.Panic: // texts of this process
		return err
	}
	return b.secrets.Error(err)
}

// unreached is the error of a command that did not get to the server. It wraps nothing, so
// that no reply is found in it.
type unreached struct{ text string }

func (e unreached) Error() string { return e.text }

// unreached returns err if it wraps no reply, and otherwise an error with its text, and with
// the setting that is wanted if that can be told.
func (b *Store) unreached(err error) error {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return err
	}
	text := err.Error()
	switch {
	case strings.Contains(text, sentinelsText) && isAuth(reply) && b.Owned:
		text += ": the Sentinels want Config.Redis.SentinelPassword (REDIS_SENTINEL_PASSWORD), perhaps with SentinelUsername (REDIS_SENTINEL_USERNAME)"
	case strings.Contains(text, sentinelsText) && isAuth(reply):
		text += ": the Sentinels want SentinelPassword, perhaps with SentinelUsername, in redis.FailoverOptions"
	case errors.Is(err, redis.Nil) && b.Master != "":
		text += ": no Sentinel knows Config.Redis.SentinelMaster \"" + b.Master + "\""
	case errors.Is(err, redis.Nil):
		text += ": a nil while it connected, perhaps for a master's name that no Sentinel knows"
	case redis.HasErrorPrefix(reply, "This instance has cluster") && b.Owned:
		text += ": want one host in Config.Redis.Hosts, and Cluster (REDIS_CLUSTER) false"
	case redis.HasErrorPrefix(reply, "This instance has cluster"):
		text += ": want a client of redis.NewClient"
	}
	return unreached{text}
}

// ownReply returns the reply that err is, perhaps wrapped by a hook of the client. An error
// of getting to the server is no reply, whatever it wraps.
func ownReply(err error) (redis.Error, bool) {
	for ; err != nil; err = errors.Unwrap(err) {
		if reply, ok := err.(redis.Error); ok {
			return reply, true
		}
		text := err.Error()
		for _, way := range wayTexts {
			if strings.HasPrefix(text, way) {
				return nil, false
			}
		}
	}
	return nil, false // errors joined together, too: they are of the Sentinels
}

// wayTexts are the beginnings of go-redis's errors of getting to the server.
var wayTexts = []string{
	"failed to authenticate:", "failed to initialize connection options:", "failed to resolve credentials:",
	"failed to create credentials listener:", "failed to subscribe to streaming credentials:", "failed to enable maintnotifications:",
	sentinelsText,
}

// sentinelsText begins an error that wraps the errors of all Sentinels.
const sentinelsText = "redis: all sentinels specified in configuration are unreachable:"

// isAuth reports whether reply says that the server wants another user or password.
func isAuth(reply redis.Error) bool {
	return redis.HasErrorPrefix(reply, "NOAUTH") || redis.HasErrorPrefix(reply, "WRONGPASS") || redis.HasErrorPrefix(reply, "NOPERM")
}

// recheck returns nil if the server is no longer the misfit m, and otherwise the error for
// the command that has called it. It first closes the idle connections: they lead to the old
// server even when its address leads to another by now. Only one command at a time rechecks;
// the others fail with m.
func (b *Store) recheck(ctx context.Context, m *Misfit) error {
	if !b.checking.TryLock() {
		return m
	}
	defer b.checking.Unlock()
	_, err := inTime(ctx, b, func(ctx context.Context) (any, error) {
		b.dropIdle(ctx)
		return nil, b.look(ctx, true)
	})
	if err != nil {
		return err
	}
	if time.Since(m.found) < misfitSettles {
		return m
	}
	if b.misfit.CompareAndSwap(m, nil) {
		b.moves.Add(1)
	}
	return nil
}

// dropIdle closes the connections that are idle. go-redis has no call for that, so dropIdle
// takes as many connections as are idle, and closes each instead of returning it.
func (b *Store) dropIdle(ctx context.Context) {
	var taken sync.WaitGroup
	for range b.node.PoolStats().IdleConns {
		conn := b.node.EphemeralConn()
		defer conn.Close()
		taken.Go(func() {
			_, _ = foreign.Safely(ctx, func(ctx context.Context) (any, error) { return nil, conn.Ping(ctx).Err() })
		})
	}
	taken.Wait()
}

// Inspect asks the server for its role. The error is a *Misfit if it cannot be used, or says
// that there was no answer. The nodes of a Cluster are not asked.
func (b *Store) Inspect(ctx context.Context) (err error) {
	defer foreign.Catch(&err)
	if b.node == nil {
		return nil
	}
	_, err = beside(ctx, b, func(ctx context.Context) (any, error) { return nil, b.look(ctx, false) })
	return err
}

// look asks the server for its role. The error is a *Misfit, or says that there was no
// answer. With write, or where the user may not INFO, it also tries whether the server takes
// a write, by a DEL of a key that does not exist. It sends single commands, as reads do,
// since the client's pipelines have connections of their own.
func (b *Store) look(ctx context.Context, write bool) error {
	info, err := b.node.Info(ctx).Result()
	if err = b.told(err); err != nil && !Answered(err) {
		return err
	}
	write = write || redis.HasErrorPrefix(err, "NOPERM")
	// Two slots: no node of a Cluster answers that.
	if err := b.told(b.node.Exists(ctx, b.Probe+"{a}", b.Probe+"{b}").Err()); err != nil && !Answered(err) {
		return err
	}
	switch {
	case infoField(info, "redis_mode") == "sentinel", infoField(info, "server_mode") == "sentinel":
		return b.isMisfit(aSentinel)
	case infoField(info, "role") == "slave":
		return b.isMisfit(aReplica)
	}
	if kind, is := tooOld(info); is {
		return b.isMisfit(kind)
	}
	if write {
		if err := b.told(b.node.Del(ctx, b.Probe+"{a}").Err()); err != nil && !Answered(err) {
			return err
		}
	}
	return nil
}
