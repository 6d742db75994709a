// The connections of the client's pool, as turns that commands wait for. go-redis either
// fails a command for which the pool has no connection, or lets it wait without a way to
// tell that wait from Redis's silence. Either would open a breaker although Redis is well. So
// a command waits here for its turn (inTurn), and an error that comes from a lack of
// connections is marked as a shortage of this process (IsShortage), which says nothing of
// Redis.

package redisstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// Turns are the connections that a Redis client may have to one node. As many commands may be
// on their way at a time, less one that is left to other users of the client. Further
// commands wait, in the order of their arrival. Its methods may be called concurrently, and
// times are in Unix nanoseconds.
type Turns struct {
	taken chan struct{} // holds one element for each command that has its turn; nil is no bound
	spare bool          // a connection is left to other users of the client
	sent  atomic.Int32  // commands on their way
	since atomic.Int64  // when the first of them was sent, or a later one found no connection
	short atomic.Int64  // when a command last found no connection
}

// shortageLasts is how long a shortage is taken to last after it was seen. The client pauses
// for up to half a second between its own tries for a connection, and the error of a command
// that times out meanwhile does not say that it was not sent.
const shortageLasts = 2 * time.Second

// Limit returns how many commands may be on their way at a time, or 0 for no bound.
func (t *Turns) Limit() int { return cap(t.taken) }

// Since returns when the commands on their way were sent at the earliest. Before that they
// waited for a connection, so Redis owes no answer from then.
func (t *Turns) Since() int64 { return t.since.Load() }

// isShort reports whether a command has found no connection lately.
func (t *Turns) isShort() bool {
	return time.Now().UnixNano()-t.short.Load() < int64(shortageLasts)
}

// errNoConnection is the error of a command that got no connection in its time.
var errNoConnection = errors.New("no connection of the Redis client's pool was free in time")

// newTurns returns the turns of a client whose pool has these bounds. 0 or less is no bound.
func newTurns(poolSize, maxActive int) *Turns {
	size := poolSize
	if size <= 0 || maxActive > 0 && maxActive < size {
		size = maxActive
	}
	if size <= 0 {
		return &Turns{spare: true}
	}
	return &Turns{taken: make(chan struct{}, max(1, size-1)), spare: size > 1}
}

// turn is when a command began to wait for its turn and when it got it. Both are zero if it
// got its turn at once.
type turn struct{ asked, begun time.Time }

// begin waits for a turn until ctx ends. If it returns no error, end must be called.
func (t *Turns) begin(ctx context.Context) (own turn, err error) {
	if t.taken != nil {
		select {
		case t.taken <- struct{}{}:
		default:
			own.asked = time.Now()
			select {
			case t.taken <- struct{}{}:
				own.begun = time.Now()
			case <-ctx.Done():
				return own, errNoConnection
			}
		}
	}
	if t.sent.Add(1) == 1 {
		t.since.Store(time.Now().UnixNano())
	}
	return own, nil
}

// failed takes the error of a command that has had its turn, notes a shortage, and returns
// the error to go on with. A command that has timed out has met a shortage, too, if it spent
// most of its time waiting for its turn, or if the client has lately lacked connections.
func (t *Turns) failed(own turn, err error) error {
	switch {
	case err == nil || err == redis.Nil:
	case errors.Is(err, redis.ErrPoolExhausted) || errors.Is(err, redis.ErrPoolTimeout):
		now := time.Now().UnixNano()
		t.since.Store(now) // Redis owes no answer to a command that was not sent
		t.short.Store(now)
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, os.ErrDeadlineExceeded):
		waited := !own.begun.IsZero() && time.Since(own.begun) < own.begun.Sub(own.asked)
		if waited || t.isShort() {
			return fmt.Errorf("%w: %w", errNoConnection, err)
		}
	}
	return err
}

// end ends the turn of a command that has come back.
func (t *Turns) end() {
	t.sent.Add(-1)
	if t.taken != nil {
		<-t.taken
	}
}

// poolPause is how long a command waits before it tries again, after it has found the pool
// used up by other users of the client. Nothing announces that a connection is free again.
const poolPause = time.Millisecond

// inTurn is within for a command to key's node, when it is its turn. A command that was not
// sent, as other users of the client have all connections, is tried again until ctx ends.
func inTurn[T any](ctx context.Context, b *Store, key string, command func(context.Context) (T, error)) (T, error) {
	return inTurnAfter(ctx, b, key, nil, command)
}

// inTurnAfter is inTurn for a command whose first try was not sent, with error short, or
// that has not been tried, if short is nil.
func inTurnAfter[T any](ctx context.Context, b *Store, key string, short error, command func(context.Context) (T, error)) (T, error) {
	t := b.TurnsOf(key)
	for {
		v, err := once(ctx, b, t, command)
		if err == nil {
			return v, nil
		}
		if errors.Is(err, redis.ErrPoolExhausted) || errors.Is(err, redis.ErrPoolTimeout) {
			short = err
		} else if short == nil || ctx.Err() == nil {
			return v, b.refused(err)
		}
		select {
		case <-time.After(poolPause):
		case <-ctx.Done():
			return v, short
		}
	}
}

// once is inTurn with a single try. A command that inTime no longer waits for keeps its turn
// until it returns, as it keeps its connection.
func once[T any](ctx context.Context, b *Store, t *Turns, command func(context.Context) (T, error)) (v T, err error) {
	if err := b.admits(ctx); err != nil {
		return v, err
	}
	own, err := t.begin(ctx)
	if err != nil {
		return v, err
	}
	v, err = inTime(ctx, b, func(ctx context.Context) (T, error) {
		defer t.end() // in here, not in once, which may return before the command does
		return command(ctx)
	})
	return v, t.failed(own, err)
}

// beside is within for a task that takes many commands or names no key. It would keep a turn
// for long, so it uses the connection that is left to others, if there is one.
func beside[T any](ctx context.Context, b *Store, command func(context.Context) (T, error)) (T, error) {
	if b.TurnsOf("").spare {
		return within(ctx, b, command)
	}
	return inTurn(ctx, b, "", command)
}

// TurnsOf returns the turns of key's node. On a Cluster, each node has its own pool.
func (b *Store) TurnsOf(key string) *Turns {
	if b.cluster == nil {
		return b.turns
	}
	shard := b.Shard(key)
	if t, ok := b.turnsAt.Load(shard); ok {
		return t.(*Turns)
	}
	o := b.cluster.Options()
	t, _ := b.turnsAt.LoadOrStore(shard, newTurns(o.PoolSize, o.MaxActiveConns))
	return t.(*Turns)
}

// refusedHere is the error of a command that the client's own limiter has refused.
type refusedHere struct{ error }

// Unwrap returns the limiter's error.
func (e refusedHere) Unwrap() error { return e.error }

// refused marks err as a refusedHere if the client has a limiter and err cannot come from
// elsewhere: it is no reply, and no error of the network, the pool or a context. go-redis
// returns a limiter's error as it is, so only exclusion can tell.
func (b *Store) refused(err error) error {
	if !b.limited || err == nil {
		return err
	}
	var netErr net.Error
	if isReply(err) || errors.As(err, &netErr) || errors.Is(err, redis.ErrClosed) ||
		errors.Is(err, errNoConnection) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return refusedHere{fmt.Errorf("the Redis client's limiter: %w", err)}
}

// shortages are the errors that say that this process or its machine lacks connections.
var shortages = []error{
	errNoConnection, redis.ErrPoolExhausted, redis.ErrPoolTimeout,
	syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS,
}

// IsShortage reports whether err was made by this process before anything was sent. It says
// nothing of the server.
func IsShortage(err error) bool {
	if errors.As(err, new(refusedHere)) {
		return true
	}
	for _, s := range shortages {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}
