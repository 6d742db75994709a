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
	// trackingPing is how often a connection that carries invalidations is asked
	// whether it still does, and trackingSilence how long it may not answer: how
	// long changes may go unheard.
	trackingPing    = 500 * time.Millisecond
	trackingSilence = 2 * time.Second
	// trackingRetry is how long a node is left alone after its connection broke.
	trackingRetry = 500 * time.Millisecond
)

// Changes is told what changes in Redis: a near cache.
type Changes interface {
	Drop(keys ...string)    // these keys have changed
	ForgetAll()             // any key may have changed
	Coherent(coherent bool) // any key may have changed, and whether changes are heard from now on
}

// Track tells changes of the keys that start with one of prefixes, until ctx ends. It calls
// turned when changes are not heard any more, and when they are again.
func (b *Store) Track(ctx context.Context, prefixes []string, changes Changes, log *slog.Logger, turned func(lost bool, err error)) {
	t := &tracking{changes: changes, backend: b, prefixes: prefixes, log: log, turned: turned, nodes: make(map[string]*trackedNode)}
	t.run(ctx)
}

// tracking listens to what changes in Redis, for a near cache: on a connection of
// its own to each master, which Redis tells the keys that change and start with one
// of some prefixes. Values are read on other connections, so it does not matter
// whose they are, and a client that was handed in will do; go-redis's client-side
// cache wants all connections to itself, database 0, and no Cluster.
//
// See https://redis.io/docs/latest/develop/reference/client-side-caching/#broadcasting-mode
type tracking struct {
	changes  Changes
	backend  *Store
	prefixes []string
	log      *slog.Logger
	turned   func(lost bool, err error)

	mu    sync.Mutex
	nodes map[string]*trackedNode // as masters names them
	lost  bool                    // it was said that changes are not heard
}

type trackedNode struct {
	heard bool
	stop  context.CancelFunc
}

// run listens until ctx ends.
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

// masters returns the options of a client for each master, by its address and how many
// times it has moved.
func (t *tracking) masters(ctx context.Context) (masters map[string]redis.Options, err error) {
	defer foreign.Catch(&err)
	masters = make(map[string]redis.Options)
	ctx, cancel := context.WithTimeout(ctx, trackingSilence)
	defer cancel()
	_ = t.backend.Inspect(ctx)      // nobody else does while all reads are Answered from the near cache
	moves := t.backend.moves.Load() // the same address led elsewhere before
	err = t.backend.eachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		masters[fmt.Sprint(node.Options().Addr, " ", moves)] = *node.Options()
		return nil
	})
	return masters, err
}

// follow listens to the masters that are new, and no longer to those that are gone.
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
		t.changes.Coherent(false) // until this one is heard
		listeners.Go(func() { t.stay(ctx, node, options) })
	}
}

// stay listens to a master, again when the connection has broken.
func (t *tracking) stay(ctx context.Context, node *trackedNode, options redis.Options) {
	defer node.stop()
	for ctx.Err() == nil {
		err := t.backend.secretsOut(t.listen(ctx, node, options))
		if ctx.Err() != nil {
			err = nil // it was told to stop
		}
		t.hears(node, false, err)
		select {
		case <-time.After(trackingRetry):
		case <-ctx.Done():
		}
	}
}

// listen has Redis say on a connection what changes, until it breaks.
func (t *tracking) listen(ctx context.Context, node *trackedNode, options redis.Options) (err error) {
	defer foreign.Catch(&err)
	client := redis.NewClient(t.options(options))
	defer client.Close()
	messages := client.Subscribe(ctx) // to no channel: its connection is one that is read all the time
	defer closeQuietly(messages)
	defer context.AfterFunc(ctx, func() { closeQuietly(messages) })()
	if err := ping(ctx, messages); err != nil {
		return err
	}
	over, stop := context.WithCancel(ctx)
	defer stop()
	go pingUntil(over, messages)
	for {
		// It handles what Redis says of keys until a ping is Answered.
		within, cancel := context.WithTimeout(ctx, trackingSilence)
		_, err := messages.ReceiveTimeout(within, trackingSilence)
		cancel()
		if err != nil || ctx.Err() != nil {
			return err
		}
		t.hears(node, true, nil)
	}
}

// pingUntil asks whether a connection still carries what changes, until ctx ends or it
// does not.
func pingUntil(ctx context.Context, messages *redis.PubSub) {
	tick := time.NewTicker(trackingPing)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if ping(ctx, messages) != nil {
				closeQuietly(messages) // or go-redis would connect again and not say so
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

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

// HandlePushNotification takes what Redis says: the keys that have changed, or
// with none that all have.
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

// hears notes whether a node's changes are heard.
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

// allHeard needs t.mu.
func (t *tracking) allHeard() bool {
	for node := range maps.Values(t.nodes) {
		if !node.heard {
			return false
		}
	}
	return len(t.nodes) > 0
}
