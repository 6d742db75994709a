// Announcements of changed keys, for a near cache: Redis's client-side caching in
// broadcasting mode. A tracking has one connection to each master and a goroutine that reads
// it (stay, listen); a further goroutine pings it. The near cache is used only while all
// connections have lately carried something (allHeard): a change of any key may be announced
// on any of them.

package redisstore

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/redis/go-redis/v9/push"

	"github.com/cacheaside/aside/internal/foreign"
)

const (
	// trackingPing is how often a connection that carries announcements is pinged.
	// trackingSilence is how long it may receive nothing: a change goes unheard for no
	// longer than that before the near cache is disabled.
	trackingPing    = 500 * time.Millisecond
	trackingSilence = 2 * time.Second
	// trackingRetry is how long after a connection has broken the next one is made.
	trackingRetry = 500 * time.Millisecond
)

// Changes receives the changes in Redis: a near cache. Its methods must not wait.
type Changes interface {
	Drop(keys ...string)    // these keys have changed
	ForgetAll()             // any key may have changed
	Coherent(coherent bool) // any key may have changed; coherent says whether all changes are heard from now on
}

// Track passes changes of the keys that start with one of prefixes on to changes, until ctx
// ends, and returns when its goroutines have ended. It calls turned when changes are no
// longer heard, with an error if there is one, and when they are heard again.
func (b *Store) Track(ctx context.Context, prefixes []string, changes Changes, log *slog.Logger, turned func(lost bool, err error)) {
	t := &tracking{changes: changes, backend: b, prefixes: prefixes, log: log, turned: turned, nodes: make(map[string]*trackedNode)}
	t.run(ctx)
}

// tracking hears the changes in Redis on a connection of its own to each master. Redis
// announces on it each key that changes and starts with one of the prefixes. Values are read
// on other connections, so any client will do, even one that was handed in. go-redis's own
// client-side cache is not used: it needs all connections to itself, and database 0, and
// does not work on a Cluster.
//
// See https://redis.io/docs/latest/develop/reference/client-side-caching/#broadcasting-mode
type tracking struct {
	changes  Changes
	backend  *Store
	prefixes []string
	log      *slog.Logger
	turned   func(lost bool, err error)

	// mu guards the fields below and heard of every node. Coherent and turned are called
	// while it is held, so that they are called in the order of the events.
	mu    sync.Mutex
	nodes map[string]*trackedNode // by the keys of masters
	lost  bool                    // turned was last called with true
}

// trackedNode is a master with a connection for announcements.
type trackedNode struct {
	heard bool               // the connection carries announcements
	stop  context.CancelFunc // ends stay
}

// run follows the masters until ctx ends, and waits for its goroutines.
func (t *tracking) run(ctx context.Context) {
	var listeners sync.WaitGroup
	defer listeners.Wait()
	tick := time.NewTicker(trackingSilence)
	defer tick.Stop()
	for {
		if masters, err := t.masters(ctx); err == nil {
			t.follow(ctx, masters, &listeners)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// masters returns the options of a client for each master. A key is the master's address,
// and how often it was found to lead to another server: it is then listened to anew.
func (t *tracking) masters(ctx context.Context) (masters map[string]redis.Options, err error) {
	defer foreign.Catch(&err)
	masters = make(map[string]redis.Options)
	ctx, cancel := context.WithTimeout(ctx, trackingSilence)
	defer cancel()
	_ = t.backend.Inspect(ctx) // no command would while the near cache answers all reads
	moves := t.backend.moves.Load()
	err = t.backend.eachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		masters[fmt.Sprint(node.Options().Addr, " ", moves)] = *node.Options()
		return nil
	})
	return masters, err
}

// follow starts to listen to new masters, and stops listening to those that are gone. The
// near cache is disabled from now on until each new master is heard.
func (t *tracking) follow(ctx context.Context, masters map[string]redis.Options, listeners *sync.WaitGroup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for addr, node := range t.nodes {
		if _, ok := masters[addr]; !ok {
			node.stop()
			delete(t.nodes, addr)
			t.changes.Coherent(t.allHeard())
		}
	}
	for addr, options := range masters {
		if t.nodes[addr] != nil {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		node := &trackedNode{stop: stop}
		t.nodes[addr] = node
		t.changes.Coherent(false)
		listeners.Go(func() { t.stay(ctx, node, options) })
	}
}

// stay listens to a master, over a new connection each time that one has broken, until ctx
// ends.
func (t *tracking) stay(ctx context.Context, node *trackedNode, options redis.Options) {
	defer node.stop()
	for ctx.Err() == nil {
		err := t.backend.secretsOut(t.listen(ctx, node, options))
		if ctx.Err() != nil {
			err = nil // stopped, which is no failure
		}
		t.hears(node, false, err)
		select {
		case <-time.After(trackingRetry):
		case <-ctx.Done():
		}
	}
}

// listen makes a connection on which Redis announces changes, and handles the announcements
// until it breaks or is silent for trackingSilence. It uses a client of its own with one
// subscription to no channel: go-redis reads the connection of a subscription all the time,
// and handles push messages on it.
func (t *tracking) listen(ctx context.Context, node *trackedNode, options redis.Options) (err error) {
	defer foreign.Catch(&err)
	client := redis.NewClient(t.options(options))
	defer client.Close()
	messages := client.Subscribe(ctx)
	defer closeQuietly(messages)
	defer context.AfterFunc(ctx, func() { closeQuietly(messages) })()
	if err := ping(ctx, messages); err != nil {
		return err
	}
	over, stop := context.WithCancel(ctx)
	defer stop()
	go pingUntil(over, messages)
	for {
		// ReceiveTimeout handles announcements until the reply to a ping arrives.
		within, cancel := context.WithTimeout(ctx, trackingSilence)
		_, err := messages.ReceiveTimeout(within, trackingSilence)
		cancel()
		if err != nil || ctx.Err() != nil {
			return err
		}
		t.hears(node, true, nil)
	}
}

// pingUntil pings a connection until ctx ends or a ping fails, and then closes it.
func pingUntil(ctx context.Context, messages *redis.PubSub) {
	tick := time.NewTicker(trackingPing)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if ping(ctx, messages) != nil {
				closeQuietly(messages) // otherwise go-redis would connect again without an error
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// options returns the options of the client for a connection that carries announcements: o
// with RESP3 and CLIENT TRACKING, and without the features that need a connection of their
// own.
func (t *tracking) options(o redis.Options) *redis.Options {
	o.Protocol = 3
	o.ClientSideCache, o.ClientSideCacheConfig = nil, nil
	o.MinIdleConns = 0
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	processor := push.NewProcessor()
	_ = processor.RegisterHandler("invalidate", t, true)
	o.PushNotificationProcessor = processor
	args := []any{"client", "tracking", "on", "bcast"}
	for _, p := range t.prefixes {
		args = append(args, "prefix", p)
	}
	theirs := o.OnConnect
	o.OnConnect = func(ctx context.Context, conn *redis.Conn) error {
		if theirs != nil {
			if err := theirs(ctx, conn); err != nil {
				return err
			}
		}
		return conn.Do(ctx, args...).Err()
	}
	return &o
}

// HandlePushNotification takes an announcement: the keys that have changed, or nil after a
// FLUSHALL, when all have. go-redis calls it.
func (t *tracking) HandlePushNotification(_ context.Context, _ push.NotificationHandlerContext, notification []any) error {
	if len(notification) < 2 {
		return nil
	}
	keys, ok := notification[1].([]any)
	if !ok {
		t.changes.ForgetAll()
		return nil
	}
	for _, key := range keys {
		if key, ok := key.(string); ok {
			t.changes.Drop(key)
		}
	}
	return nil
}

// hears notes whether a node's changes are heard, and calls turned and logs when that
// changes for the near cache as a whole. A failed attempt to connect is also noted when
// nothing was heard before, so that the first error is logged.
func (t *tracking) hears(node *trackedNode, heard bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if node.heard == heard && (heard || t.lost || err == nil) {
		return
	}
	node.heard = heard
	all := t.allHeard()
	t.changes.Coherent(all)
	if lost := !all; lost != t.lost {
		t.turned(lost, err)
		if t.lost = lost; lost && err != nil {
			t.log.Warn("aside: near cache disabled, no announcements from Redis", "err", err)
		} else if !lost {
			t.log.Info("aside: near cache enabled again")
		}
	}
}

// allHeard reports whether there is a node, and the changes of each are heard. The caller must
// hold t.mu.
func (t *tracking) allHeard() bool {
	for node := range maps.Values(t.nodes) {
		if !node.heard {
			return false
		}
	}
	return len(t.nodes) > 0
}
