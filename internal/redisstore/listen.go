package redisstore

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/internal/foreign"
)

// beat is how often a subscription is looked after. One that has brought nothing
// for two of them is given up.
const beat = time.Second

var errDeaf = errors.New("the subscription brings nothing, not even answers")

// Listener is told what is heard on a channel.
type Listener interface {
	Up()              // from now on, what is published is heard
	Heard(key string) // that the key's lease has ended
	Wanted() bool     // whether to go on
}

// Listen subscribes to the channel on which the ends of leases are announced. It returns
// when ctx has ended or l does not want to hear more, and with an error as soon as it
// knows that it hears nothing, or that it may not listen. Where a user's rights are set by ACL, it takes +subscribe,
// +publish and &channel.
func (b *Store) Listen(ctx context.Context, channel string, l Listener) (err error) {
	defer foreign.Catch(&err)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	sub := b.client.Subscribe(ctx) // to nothing yet: it does not connect
	if sub == nil {
		return errDeaf // of a client of somebody's own
	}
	events := make(chan any, 16)
	// Not waited for: a client that does not obey a context's deadline may be
	// connecting for as long as it likes.
	go receive(ctx, sub, channel, events)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	moves := b.moves.Load()
	for live, silent := false, 0; ; {
		select {
		case e := <-events:
			silent = 0
			switch e := e.(type) {
			case *redis.Subscription:
				live = true
				l.Up()
			case *redis.Message:
				l.Heard(e.Payload)
			case error:
				return b.told(e)
			}
		case <-tick.C:
			if !l.Wanted() {
				return nil
			}
			if silent++; silent >= 2 {
				return errDeaf
			}
			if b.moves.Load() != moves {
				return errDeaf // of a server that others tell nothing any more
			}
			if live {
				_ = ping(ended, sub) // a failure is silence
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ended is the context for a subscription that has its connection. go-redis would
// replace one that breaks, and only then return the error: with this context it
// returns at once. It does not interrupt what the connection is asked.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// receive subscribes, and sends what the subscription brings, at last an error. It
// ends with ctx, once it is connected.
func receive(ctx context.Context, sub *redis.PubSub, channel string, events chan<- any) {
	_, err := foreign.Safely(ctx, func(ctx context.Context) (any, error) { return nil, sub.Subscribe(ctx, channel) })
	context.AfterFunc(ctx, func() { closeQuietly(sub) })
	for ctx.Err() == nil {
		var event any
		if err == nil {
			event, err = foreign.Safely(ended, func(ctx context.Context) (any, error) { return sub.ReceiveTimeout(ctx, 0) })
		}
		if err != nil {
			event = err
		}
		select {
		case events <- event:
		case <-ctx.Done():
		}
		if err != nil {
			return
		}
	}
}

// ping and closeQuietly may run hooks and the dialer of the client.
func ping(ctx context.Context, sub *redis.PubSub) (err error) {
	defer foreign.Catch(&err)
	return sub.Ping(ctx)
}

func closeQuietly(sub *redis.PubSub) {
	defer func() { _ = recover() }()
	_ = sub.Close()
}
