// Package redisstore keeps the lease protocol in Redis: values, and beside each value its
// key's lease or not-found marker, and the blocks of its writers. [Store] implements
// [backend.Backend] over a go-redis client of one node, of Sentinels or of a Cluster. A
// read is a plain GET, and state that must change together is changed by one script.
//
//	scripts.go               the scripts, and the texts of a lease key
//	keys.go                  the names of lease and block keys, in their value's Cluster slot
//	store.go                 the methods of Backend
//	pipeline.go              lease requests and fills that share round trips
//	turns.go                 the connections of the client's pool, and waiting for one
//	clear.go                 Clear, in steps that can be resumed
//	listen.go                the channel on which the ends of leases are announced
//	track.go                 announcements of changed keys, for a near cache
//	replicas.go              WAIT, for invalidations that replicas must acknowledge
//	misfit.go, replies.go    servers and replies with which nothing can work
//	status.go                Info, TTL and Size
//
// A Store has no time budget and no breaker. The caller's context limits each command, and
// an error leaves its outcome unknown. Commands of one node wait for a connection in the
// order of their arrival (turns.go). Every error of the client passes through told
// (misfit.go) before it is judged, which also takes the client's secrets out of it.
package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/foreign"
	"github.com/cacheaside/aside/internal/redact"
)

// Options are the settings of a Store.
type Options struct {
	// Probe is a key that does not exist, and that every user of the store has the right to.
	Probe string

	// WaitReplicas is how many replicas must acknowledge an invalidation.
	WaitReplicas int

	// Owned says that the client was made from settings: Close closes it, and errors name
	// the settings to change. Master is the name of its master at the Sentinels, if it has
	// one.
	Owned  bool
	Master string

	// SentinelUser and SentinelPassword are taken out of errors, as the client's own user
	// and password are. They are asked for, since a failover client does not reveal them.
	SentinelUser, SentinelPassword string

	// Covers reports whether a Clear of prefixes removes key. Defaults to whether key starts
	// with one of prefixes.
	Covers func(prefixes []string, key string) bool

	// Replaced, when not nil, is called when a key of another Redis type was removed, at
	// the name of a value, a lease or a block. Another program must have stored it.
	Replaced func(key, kind string)
}

// Store keeps values, leases and blocks in Redis. Each method that changes them is one
// script, so that a value and its lease change together; a read is a plain GET. Its methods
// may be called concurrently.
type Store struct {
	Options
	client  redis.UniversalClient
	node    *redis.Client        // client, when it is of one node: a script may name any keys
	cluster *redis.ClusterClient // client, when it is of a Cluster
	obeys   bool                 // client ends a command at its context's deadline by itself
	doubts  bool                 // an OnConnect hook may have caused a nil reply: read values by MGET, which has none

	reached atomic.Bool // a command has been answered
	closed  atomic.Bool
	limited bool // client has a limiter, which may refuse commands

	secrets redact.Secrets // of the client, which a server may repeat in an error

	misfit   atomic.Pointer[Misfit] // nil unless the server is a misfit
	moves    atomic.Int64           // counts the times that a misfit was found or was gone: older connections may lead elsewhere
	checking sync.Mutex             // held by the one command that rechecks a misfit

	turns   *Turns   // of the single node
	turnsAt sync.Map // shard name: *Turns, of a Cluster
}

// New returns a Store over a client that is a *redis.Client or a *redis.ClusterClient,
// and reads from masters only.
func New(client redis.UniversalClient, o Options) *Store {
	if o.Covers == nil {
		o.Covers = func(prefixes []string, key string) bool {
			return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
		}
	}
	b := &Store{Options: o, client: client, turns: newTurns(0, 0)}
	users, passwords := []string{o.SentinelUser}, []string{o.SentinelPassword}
	switch c := client.(type) {
	case *redis.Client:
		b.node = c
		o := c.Options()
		b.obeys, b.doubts = o.ContextTimeoutEnabled, o.OnConnect != nil
		users, passwords = append(users, o.Username), append(passwords, o.Password)
		b.limited, b.turns = o.Limiter != nil, newTurns(o.PoolSize, o.MaxActiveConns)
	case *redis.ClusterClient:
		// A ClusterClient never counts as obedient: it looks up nodes with deadlines of
		// its own.
		b.cluster = c
		o := c.Options()
		users, passwords = append(users, o.Username), append(passwords, o.Password)
		b.doubts = o.OnConnect != nil
	}
	b.secrets = redact.New(passwords, users)
	return b
}

// IsCluster reports whether the keys are on several nodes.
func (b *Store) IsCluster() bool { return b.cluster != nil }

// Reload makes the client of a Cluster look up which node has which keys.
func (b *Store) Reload(ctx context.Context) {
	if b.cluster != nil {
		b.cluster.ReloadState(ctx)
	}
}

// Obeys reports whether the client ends commands at their contexts' deadlines. For any other
// client, each command costs a goroutine that the Store can stop waiting for.
func (b *Store) Obeys() bool { return b.obeys }

// within runs a command, and returns at ctx's deadline even if the client does not. The
// command then goes on in its goroutine, and its result is dropped. Nothing is sent when the
// Store is closed or its server is a misfit.
func within[T any](ctx context.Context, b *Store, command func(context.Context) (T, error)) (T, error) {
	if err := b.admits(ctx); err != nil {
		var zero T
		return zero, err
	}
	return inTime(ctx, b, command)
}

// admits returns an error if no command may be sent now.
func (b *Store) admits(ctx context.Context) error {
	if b.closed.Load() {
		return backend.ErrClosed
	}
	if m := b.misfit.Load(); m != nil {
		return b.recheck(ctx, m)
	}
	return nil
}

// inTime is within even if the Store is closed or the server is a misfit.
func inTime[T any](ctx context.Context, b *Store, command func(context.Context) (T, error)) (T, error) {
	if b.obeys {
		v, err := command(ctx)
		return v, b.told(err)
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := foreign.Safely(ctx, command)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, b.told(r.err)
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// isReply reports whether err is a reply of Redis to a command. That is reliable only of
// errors that told has returned.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

// run runs a script, by its digest if Redis knows it.
func (b *Store) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
	return inTurn(ctx, b, keys[0], func(ctx context.Context) (any, error) {
		return script.Run(ctx, b.client, keys, args...).Result()
	})
}

// runOn runs a script for one key.
func (b *Store) runOn(ctx context.Context, script *redis.Script, key string, args ...any) (any, error) {
	return b.run(ctx, script, keysOf(script, key), args...)
}

// keysOf returns the KEYS of a script for one key: only scripts that read blocks name the
// block key.
func keysOf(script *redis.Script, key string) []string {
	if script == leaseScript || script == refreshScript || script == extendScript {
		return []string{key, LeaseKey(key), BlockKey(key)}
	}
	return []string{key, LeaseKey(key)}
}

// Get is one GET. The first try takes the shortest way, without a closure; only when the
// client has no connection for it does Get wait for one like any other command.
func (b *Store) Get(ctx context.Context, key string) ([]byte, bool, error) {
	if b.doubts {
		found, err := b.GetMany(ctx, []Ask{{Key: key}})
		if err != nil {
			return nil, false, err
		}
		return found[0].Value, found[0].OK, found[0].Err
	}
	var short error
	if b.obeys && !b.closed.Load() && b.misfit.Load() == nil { // as within does, without a closure
		value, err := b.getNow(ctx, key)
		if err == nil || !IsShortage(err) {
			return got(value, b.refused(b.told(err)))
		}
		short = err
	}
	value, err := inTurnAfter(ctx, b, key, short, func(ctx context.Context) ([]byte, error) {
		return b.client.Get(ctx, key).Bytes()
	})
	return got(value, err)
}

// getNow sends a GET in its turn, once.
func (b *Store) getNow(ctx context.Context, key string) ([]byte, error) {
	t := b.TurnsOf(key)
	own, err := t.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer t.end()
	value, err := b.client.Get(ctx, key).Bytes()
	return value, t.failed(own, err)
}

// got returns the answer to a GET. A key of another type is a miss.
func got(value []byte, err error) ([]byte, bool, error) {
	switch {
	case err == nil:
		return value, true, nil
	case errors.Is(err, redis.Nil), redis.HasErrorPrefix(err, "WRONGTYPE"):
		return nil, false, nil // the lease request that follows removes a key of another type
	default:
		return nil, false, err
	}
}

// GetMarked is one MGET of the value and the lease key.
func (b *Store) GetMarked(ctx context.Context, key string) ([]byte, backend.Mark, bool, error) {
	found, err := b.GetMany(ctx, []Ask{{key, true}})
	if err != nil {
		return nil, 0, false, err
	}
	return found[0].Value, found[0].Mark, found[0].OK, found[0].Err
}

// Ask is a question of GetMany: for a key's value and, if Marked is set, its mark.
type Ask struct {
	Key    string
	Marked bool
}

// Read is an answer of GetMany, as Get, or GetMarked, returns it.
type Read struct {
	Value []byte
	Mark  backend.Mark
	OK    bool
	Err   error
}

// GetMany answers asks in order, by one MGET. On a Cluster, where the keys may be in several
// slots, and after a refusal, as the user may lack the right to one of them, it is a pipeline
// of GETs. The error is nil if one of asks was answered.
func (b *Store) GetMany(ctx context.Context, asks []Ask) (_ []Read, err error) {
	defer foreign.Catch(&err)
	if b.cluster != nil {
		return b.getEach(ctx, asks)
	}
	keys := make([]string, 0, len(asks))
	for _, ask := range asks {
		keys = append(keys, ask.Key)
		if ask.Marked {
			keys = append(keys, LeaseKey(ask.Key))
		}
	}
	values, err := inTurn(ctx, b, keys[0], func(ctx context.Context) ([]any, error) {
		return b.client.MGet(ctx, keys...).Result()
	})
	if isReply(err) {
		return b.getEach(ctx, asks)
	}
	if err != nil {
		return nil, err
	}
	out := make([]Read, len(asks))
	for i, ask := range asks {
		out[i].Value, out[i].OK = element(values[0])
		values = values[1:]
		if ask.Marked {
			lease, _ := element(values[0])
			out[i].Mark = markOf(lease, out[i].OK)
			values = values[1:]
		}
	}
	return out, nil
}

// markOf returns the mark that the text of a lease key stands for. has says whether the key
// has a value.
func markOf(lease []byte, has bool) backend.Mark {
	switch kind, _, _ := bytes.Cut(lease, []byte(" ")); string(kind) {
	case "fresh":
		return backend.Fresh
	case "load", "claim":
		if of := bytes.Fields(lease); len(of) > 4 && bytes.HasPrefix(of[4], []byte("on:")) {
			return backend.Fresh // a load under Fresh, or an audit, of a value that is fresh
		}
		return backend.Leased
	case "none":
		if !has {
			return backend.NotFound
		}
	}
	return backend.Unmarked
}

// element returns a value of MGET's answer. ok is false for a missing one.
func element(v any) ([]byte, bool) {
	text, ok := v.(string)
	return unsafe.Slice(unsafe.StringData(text), len(text)), ok // not copied, as it is not modified
}

// getEach is GetMany by a pipeline with a command for each key. Where the user may not read
// the lease key, the value counts as fresh, since the user could not have it refreshed
// either.
func (b *Store) getEach(ctx context.Context, asks []Ask) ([]Read, error) {
	out := make([]Read, len(asks))
	var first error
	cmds, err := inTurn(ctx, b, asks[0].Key, func(ctx context.Context) ([]redis.Cmder, error) {
		cmds, err := b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			get := func(key string) {
				if b.doubts {
					p.MGet(ctx, key)
				} else {
					p.Get(ctx, key)
				}
			}
			for _, ask := range asks {
				get(ask.Key)
				if ask.Marked {
					get(LeaseKey(ask.Key))
				}
			}
			return nil
		})
		if _, own := ownReply(err); own {
			first, err = err, nil // the reply to one of the commands
		}
		return cmds, err
	})
	if err != nil {
		return nil, err
	}
	value := func() (value []byte, ok bool, err error) { // the answer to the next command
		ok = true
		switch cmd := cmds[0].(type) {
		case *redis.StringCmd:
			value, err = cmd.Bytes()
		case *redis.SliceCmd:
			if err = cmd.Err(); err == nil && len(cmd.Val()) != 1 {
				err = first // go-redis gives an error of OnConnect to the pipeline only
			} else if err == nil {
				value, ok = element(cmd.Val()[0])
			}
		}
		cmds = cmds[1:]
		if err != nil {
			return got(nil, b.told(err))
		}
		return value, ok, nil
	}
	// A refusal may be for one key alone, so the others are answered. Only if all failed is
	// the error that of the whole.
	failed := 0
	for i, ask := range asks {
		read := &out[i]
		read.Value, read.OK, read.Err = value()
		if read.Err != nil {
			failed++
		}
		if ask.Marked {
			if lease, _, err := value(); err == nil {
				read.Mark = markOf(lease, read.OK)
			} else {
				read.Mark = backend.Fresh
			}
		}
	}
	if failed == len(asks) {
		return nil, out[0].Err
	}
	return out, nil
}

// Set stores a value and ends the key's lease. When Redis is out of memory, it removes both
// and returns the error, as the old value is outdated.
func (b *Store) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	res, err := b.runOn(ctx, setScript, key, ttl.Milliseconds(), value)
	b.tellReplaced(res)
	return err
}

// Delete invalidates keys, also on a Redis that is out of memory or runs no scripts.
func (b *Store) Delete(ctx context.Context, keys ...string) error {
	return b.eachSlot(ctx, keys, func(ctx context.Context, keys []string) error {
		err := b.apply(ctx, deleteScript, withKeys(keys, LeaseKey))
		return b.orPlain(ctx, err, keys, "")
	})
}

// orPlain returns err, unless it says that Redis allows no scripts: then orPlain invalidates
// keys by single commands, and removes the block of the token block, if that is not "". Each
// lease ends before its value goes, so that no fill comes between.
func (b *Store) orPlain(ctx context.Context, err error, keys []string, block string) error {
	if !isForbidden(err) {
		return err
	}
	send := func(p redis.Pipeliner) {
		for _, key := range keys {
			p.Del(ctx, LeaseKey(key))
			p.Del(ctx, key)
			if block != "" {
				p.HDel(ctx, BlockKey(key), block)
			}
		}
	}
	if b.WaitReplicas > 0 {
		return b.andWait(ctx, keys[0], send)
	}
	_, err = inTurn(ctx, b, keys[0], func(ctx context.Context) (any, error) {
		return b.client.Pipelined(ctx, func(p redis.Pipeliner) error { send(p); return nil })
	})
	return err
}

// isForbidden reports whether err is the reply of a Redis that does not allow scripts.
func isForbidden(err error) bool {
	return redis.HasErrorPrefix(err, "NOPERM") || isUnknownCommand(err) || lacksLua(err) || lacksEffects(err)
}

// lacksEffects reports whether err is the answer of a Redis before 5.0, which replicates
// a script's text and so refuses one that writes after it has asked for the time. Such a
// node of a Cluster is known by nothing else: of a single node, INFO is read.
func lacksEffects(err error) bool {
	return isReply(err) && strings.Contains(err.Error(), "not allowed after non deterministic commands")
}

// lacksLua reports whether err is the reply of a Valkey that was built without Lua, or has
// unloaded it. Such a server knows EVAL, and has no engine to run a script.
func lacksLua(err error) bool { return redis.HasErrorPrefix(err, "Could not find scripting engine") }

// explained adds to the reply of a server that runs no scripts the rights that are wanted.
func explained(err error) error {
	if lacksEffects(err) {
		return fmt.Errorf("the server is too old: want Redis %d.0 or later, or Valkey: %w", oldest, err)
	}
	refusesEval := redis.HasErrorPrefix(err, "NOPERM") && strings.Contains(strings.ToLower(err.Error()), "'eval")
	if refusesEval || isUnknownCommand(err) || lacksLua(err) {
		return fmt.Errorf("the server runs no scripts: want EVAL and EVALSHA, with Lua, for the user: %w", err)
	}
	return err
}

// isUnknownCommand reports whether err is the reply to a command that the server lacks, or
// that was renamed.
func isUnknownCommand(err error) bool {
	return isReply(err) && strings.Contains(err.Error(), "unknown command")
}

func (b *Store) Lease(ctx context.Context, key string, req backend.LeaseRequest) (backend.Lease, error) {
	r := b.alone(ctx, &Call{Key: key, Lease: &req})
	return r.Lease, r.Err
}

// leaseFrom returns the lease in a script's answer to a request with the nonce. A request
// that the client library has sent twice, as its connection broke, may find the lease that
// it has been granted by the first one: that lease is the caller's own.
func (b *Store) leaseFrom(res any, nonce string) (backend.Lease, error) {
	answer, ok := res.([]any)
	if !ok || len(answer) < 2 {
		return backend.Lease{}, fmt.Errorf("aside: Redis answered a lease request with %T", res)
	}
	state, _ := answer[0].(string)
	text, _ := answer[1].(string)
	deadline := ""
	if len(answer) > 2 {
		deadline, _ = answer[2].(string)
		b.tellReplaced(answer[3:])
	}
	switch state {
	case "granted":
		return backend.Lease{State: backend.Granted, Token: text}, nil
	case "loading":
		if strings.HasPrefix(text, nonce+".") {
			return backend.Lease{State: backend.Granted, Token: text}, nil
		}
		return backend.Lease{State: backend.Loading, Token: text, Deadline: deadline}, nil
	case "writing":
		return backend.Lease{State: backend.Writing}, nil
	case "unleased":
		return backend.Lease{State: backend.Unleased}, nil
	case "absent":
		return backend.Lease{State: backend.Absent}, nil
	case "marked":
		return backend.Lease{State: backend.Marked}, nil
	case "gone":
		return backend.Lease{State: backend.Gone}, nil
	case "present":
		return backend.Lease{State: backend.Present, Value: []byte(text)}, nil
	}
	return backend.Lease{}, fmt.Errorf("aside: Redis answered a lease request with %.40q", state)
}

// tellReplaced reports the keys that a script has removed because of their types. res has
// keys and types in turn.
func (b *Store) tellReplaced(res any) {
	list, _ := res.([]any)
	for pair := range slices.Chunk(list, 2) {
		if key, ok := pair[0].(string); ok && len(pair) == 2 && b.Replaced != nil {
			b.Replaced(key, fmt.Sprint(pair[1]))
		}
	}
}

// flag returns b as an argument of a script.
func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// Extend extends all that it can, and reports whether nothing had ended.
func (b *Store) Extend(ctx context.Context, token string, ttl time.Duration, keys ...string) (bool, error) {
	var ended atomic.Bool
	err := b.eachSlot(ctx, keys, func(ctx context.Context, keys []string) error {
		res, err := b.run(ctx, extendScript, withKeys(keys, LeaseKey, BlockKey), token, ttl.Milliseconds())
		if res != int64(1) {
			ended.Store(true)
		}
		return err
	})
	return err == nil && !ended.Load(), err
}

func (b *Store) Fill(ctx context.Context, key, token string, fill backend.Fill) (bool, error) {
	r := b.alone(ctx, &Call{Key: key, Token: token, Fill: fill})
	return r.Stored, r.Err
}

func (b *Store) Release(ctx context.Context, key, token string) error {
	_, err := b.runOn(ctx, releaseScript, key, releaseArgs(token)...)
	return err
}

// releaseArgs returns the arguments of releaseScript.
func releaseArgs(token string) []any {
	return []any{token, backend.FailedFor.Milliseconds(), backend.MaxCooldown.Milliseconds()}
}

// Block has no plain form for a Redis that allows no scripts: it fails there, and the caller
// must distrust the keys while its write runs.
func (b *Store) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error {
	return b.eachSlot(ctx, keys, func(ctx context.Context, keys []string) error {
		return b.apply(ctx, blockScript, withKeys(keys, LeaseKey, BlockKey), token, ttl.Milliseconds())
	})
}

// Unblock invalidates keys and removes the blocks of token, also on a Redis that is out of
// memory or runs no scripts.
func (b *Store) Unblock(ctx context.Context, token string, keys ...string) error {
	return b.eachSlot(ctx, keys, func(ctx context.Context, keys []string) error {
		err := b.apply(ctx, unblockScript, withKeys(keys, LeaseKey, BlockKey), token)
		return b.orPlain(ctx, err, keys, token)
	})
}

// withKeys returns keys, each followed by the other keys that belong to it.
func withKeys(keys []string, others ...func(key string) string) []string {
	out := make([]string, 0, len(keys)*(1+len(others)))
	for _, key := range keys {
		out = append(out, key)
		for _, other := range others {
			out = append(out, other(key))
		}
	}
	return out
}

// eachSlot calls do with keys that one script may name together: all of them on one node,
// those of one slot on a Cluster, where the calls run concurrently. The errors are joined.
func (b *Store) eachSlot(ctx context.Context, keys []string, do func(context.Context, []string) error) error {
	groups := make(map[int][]string)
	for _, key := range keys {
		slot := 0
		if b.cluster != nil {
			slot = SlotOf(key)
		}
		groups[slot] = append(groups[slot], key)
	}
	errs := make(chan error, len(groups))
	for _, keys := range groups {
		if len(groups) == 1 {
			return do(ctx, keys)
		}
		go func() {
			_, err := foreign.Safely(ctx, func(ctx context.Context) (any, error) { return nil, do(ctx, keys) })
			errs <- err
		}()
	}
	var all []error
	for range groups {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// Shard returns the address of the node that has key, so that a breaker can be kept for each
// node. It is "" where there is one node, when the client does not know the key's node, and
// before the Cluster has answered a first command.
func (b *Store) Shard(key string) (name string) {
	if b.cluster == nil || !b.reached.Load() {
		return ""
	}
	defer func() { _ = recover() }() // foreign code may panic while the client looks up its nodes
	node, err := b.cluster.MasterForKey(context.Background(), key)
	if err != nil {
		return ""
	}
	return node.Options().Addr
}

// masterOf returns a client of the node that has key.
func (b *Store) masterOf(ctx context.Context, key string) (*redis.Client, error) {
	if b.cluster == nil {
		return b.node, nil
	}
	return b.cluster.MasterForKey(ctx, key)
}

// eachMaster calls do with a client of every master, one call at a time.
func (b *Store) eachMaster(ctx context.Context, do func(context.Context, *redis.Client) error) error {
	if b.cluster == nil {
		return do(ctx, b.node)
	}
	var mu sync.Mutex
	return b.cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := foreign.Safely(ctx, func(ctx context.Context) (any, error) { return nil, do(ctx, node) })
		return err
	})
}

// Close closes the client if the Store owns it. Commands fail with backend.ErrClosed from now
// on; those on their way are not waited for.
func (b *Store) Close() error {
	if !b.closed.CompareAndSwap(false, true) || !b.Owned {
		return nil
	}
	return b.client.Close()
}
