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

// Turns are the connections that a Redis client may have to one node: as many commands
// are on their way there at a time, less one that is left to others who use the client.
// The rest wait here, in the order in which they came. A client of its own accord either
// fails a command for which it has no connection, or lets it wait and does not tell such
// a wait from Redis's silence.
type Turns struct {
	taken chan struct{} // has one of each command that has its turn; nil when there is no bound
	spare bool          // a connection is left to others
	sent  atomic.Int32  // commands on their way
	since atomic.Int64  // when the first of them was sent, or one found no connection: Redis owes no answer from before
	short atomic.Int64  // when a command last found no connection
}

// shortageLasts is how long a shortage that was seen is taken to go on: the client
// pauses between its own tries for a connection, for up to half a second each, and a
// command whose time is over meanwhile does not say what it waited for.
const shortageLasts = 2 * time.Second

// Limit is how many commands may be on their way at a time, or 0 when there is no bound.
func (t *Turns) Limit() int { return cap(t.taken) }

// Since returns when the commands on their way began, in Unix nanoseconds: until then
// they waited for a connection, and Redis owes no answer.
func (t *Turns) Since() int64 { return t.since.Load() }

// isShort reports whether a command has found no connection lately.
func (t *Turns) isShort() bool {
	return time.Now().UnixNano()-t.short.Load() < int64(shortageLasts)
}

// errNoConnection is the end of a command that has waited for a connection in vain.
var errNoConnection = errors.New("no connection of the Redis client's pool was free in time")

// newTurns returns the turns of a client whose pool has those bounds; one that is 0 or
// less is none.
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

// turn says since when a command waited for its turn, and when it had it. Both are zero
// when it had it at once.
type turn struct{ asked, begun time.Time }

// begin waits for a turn, until ctx ends.
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

// failed returns the error of a command that has had its turn. One whose time is over
// has met a shortage, too, if it had most of that time to wait for its turn, or if the
// client has lately had no connection to send it on.
func (t *Turns) failed(own turn, err error) error {
	switch {
	case err == nil || err == redis.Nil:
	case errors.Is(err, redis.ErrPoolExhausted) || errors.Is(err, redis.ErrPoolTimeout):
		now := time.Now().UnixNano()
		t.since.Store(now) // a command that was not sent has no answer to come
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

// poolPause is how long a command waits that found the client's pool used up by others,
// which nobody tells the end of.
const poolPause = time.Millisecond

// inTurn is within for a command that is sent to key's node, when it is its turn. One
// that was not sent, as others have all the connections of the client, is sent again
// until ctx ends.
func inTurn[T any](ctx context.Context, b *Store, key string, command func(context.Context) (T, error)) (T, error) {
	return inTurnAfter(ctx, b, key, nil, command)
}

// inTurnAfter is inTurn for a command that was not sent already, for that reason.
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

// once is inTurn that tries once. A command that inTime does not wait for any more keeps
// its turn until it has come back.
func once[T any](ctx context.Context, b *Store, t *Turns, command func(context.Context) (T, error)) (v T, err error) {
	if err := b.admits(ctx); err != nil {
		return v, err
	}
	own, err := t.begin(ctx)
	if err != nil {
		return v, err
	}
	v, err = inTime(ctx, b, func(ctx context.Context) (T, error) {
		defer t.end()
		return command(ctx)
	})
	return v, t.failed(own, err)
}

// beside is within for what takes many commands or names no key. It goes on the
// connection that is left to others, if there is one: it would keep a turn for long.
func beside[T any](ctx context.Context, b *Store, command func(context.Context) (T, error)) (T, error) {
	if b.TurnsOf("").spare {
		return within(ctx, b, command)
	}
	return inTurn(ctx, b, "", command)
}

// TurnsOf returns the turns of key's node.
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

// refusedHere is an error of a client's own limiter.
type refusedHere struct{ error }

func (e refusedHere) Unwrap() error { return e.error }

// refused marks err when it must be of the client's own limiter, which asks nobody: no
// answer, none of the network's, and none of a context's.
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

// shortages are what this machine has too little of.
var shortages = []error{
	errNoConnection, redis.ErrPoolExhausted, redis.ErrPoolTimeout,
	syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS,
}

// IsShortage reports whether err was made here, before anything was sent: it says
// nothing of the backend.
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
