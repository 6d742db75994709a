// The subscription to the channel on which the ends of leases are announced. Two goroutines
// take part: Listen, which its caller runs, decides when to give up, and receive reads the
// connection, since go-redis does not stop reading when a context ends.

package redisstore

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/internal/foreign"
)

// beat is how often a subscription is pinged. One that has received nothing for two beats,
// not even a reply to a ping, is given up.
const beat = time.Second

// errDeaf is the error of a subscription that receives nothing.
var errDeaf = errors.New("subscription is dead: no messages and no reply to a ping")

// Listener receives the messages of a channel. Its methods must not wait.
type Listener interface {
	Up()              // everything that is published from now on is heard
	Heard(key string) // the end of the key's lease was announced
	Wanted() bool     // reports whether to go on
}

// Listen subscribes to the channel on which the ends of leases are announced. It returns when
// ctx has ended, with nil when l.Wanted reports false, and with an error as soon as it knows
// that it hears nothing or lacks the permission. With an ACL, the user needs +subscribe,
// +publish and &channel.
func (b *Store) Listen(ctx context.Context, channel string, l Listener) (err error) {
	defer foreign.Catch(&err)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	sub := b.client.Subscribe(ctx) // to no channel yet, so it does not connect
	if sub == nil {
		return errDeaf // a custom client may return nil
	}
	events := make(chan any, 16)
	// Listen does not wait for receive to end: a client that does not obey a context's
	// deadline may be connecting for as long as it likes.
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
				return errDeaf // the connection may lead to a server that is no longer the master
			}
			if live {
				_ = ping(ended, sub) // a failure shows as silence
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ended is an ended context, for calls on a subscription that has its connection. When the
// connection breaks, go-redis would replace it before it returns the error; with this context
// it returns at once. It does not interrupt a call on a connection that works.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// receive subscribes, and sends each message of the subscription to events, at last an
// error. It ends when ctx does, though not before it is connected.
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

// ping sends a PING on the subscription. Like closeQuietly it may run hooks and the dialer
// of the client, which are foreign code.
func ping(ctx context.Context, sub *redis.PubSub) (err error) {
	defer foreign.Catch(&err)
	return sub.Ping(ctx)
}

// closeQuietly closes the subscription's connection, and drops any error or panic.
func closeQuietly(sub *redis.PubSub) {
	defer func() { _ = recover() }()
	_ = sub.Close()
}
