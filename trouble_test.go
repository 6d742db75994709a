package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

func TestP5_ABackendThatHangsCostsOneBudgetThenNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		store.SetFault(asidetest.Hang)
		var costs []time.Duration
		for i := range 10 {
			key := aside.ChatMessages(fmt.Sprint(i))
			start := time.Now()
			v, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) {
				time.Sleep(30 * time.Millisecond)
				return "v", nil
			})
			if v != "v" || err != nil {
				t.Fatal(v, err)
			}
			costs = append(costs, time.Since(start)-30*time.Millisecond)
		}
		for i, cost := range costs {
			if limit := 250 * time.Millisecond; i < 3 && cost > limit || i >= 3 && cost > 0 {
				t.Errorf("call %d cost %v: %v", i, cost, costs)
			}
		}
		if s, _ := c.Status(t.Context()); s.Breaker != "open" {
			t.Errorf("the breaker is %s", s.Breaker)
		}
		store.SetFault(nil)
		time.Sleep(600 * time.Millisecond)
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		read(t, c, fails(t))
		if s, _ := c.Status(t.Context()); s.Breaker != "closed" {
			t.Errorf("the breaker is %s after the backend is back", s.Breaker)
		}
	})
}

func TestP5_WhileTheBackendHangsLoadsAreCoalesced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		store.SetFault(asidetest.Hang)
		var loads counter
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				read(t, c, func(context.Context) (string, error) {
					loads.Add(1)
					time.Sleep(50 * time.Millisecond)
					return "v", nil
				})
			})
		}
		wg.Wait()
		if loads.Load() > 2 {
			t.Errorf("%d loads for 500 callers at once", loads.Load())
		}
	})
}

func TestP5_TheCallersOwnCancellationDoesNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		store.SetFault(asidetest.Hang)
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			if _, err := aside.GetOrLoad(ctx, c, room, fails(t)); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}
		if s, _ := c.Status(t.Context()); s.Breaker != "closed" {
			t.Errorf("the breaker is %s", s.Breaker)
		}
	})
}

// A deadline shorter than the budget leaves time to load, and a hanging backend
// opens the breaker all the same.
func TestP5_ShortDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		store.SetFault(asidetest.Hang)
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			v, err := aside.GetOrLoad(ctx, c, room, func(context.Context) (string, error) {
				time.Sleep(50 * time.Millisecond)
				return "v", nil
			})
			if v != "v" || err != nil {
				t.Errorf("got %q, %v", v, err)
			}
			cancel()
		}
		if s, _ := c.Status(t.Context()); s.Breaker != "open" {
			t.Errorf("the breaker is %s", s.Breaker)
		}
	})
}

func TestP5_ABackendThatRefusesToStoreStillServesAndInvalidates(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--maxmemory-policy", "noeviction")
	var log logtest.Buffer
	c := overRedis(t, r.Addr, aside.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	client := r.Client()
	read(t, c, func(context.Context) (string, error) { return "v", nil })
	client.ConfigSet(t.Context(), "maxmemory", "1")
	read(t, c, fails(t))
	for range 10 {
		other := aside.ChatMessages("B")
		if v, err := aside.GetOrLoad(t.Context(), c, other, func(context.Context) (string, error) { return "w", nil }); v != "w" || err != nil {
			t.Fatal(v, err)
		}
	}
	if text := log.String(); !strings.Contains(text, "backend does not store") || strings.Contains(text, "does not answer") {
		t.Errorf("the log says:\n%s", text)
	}
	writes["Invalidate"](t, c)
	if n := client.Exists(t.Context(), room.String()).Val(); n != 0 || aside.Pending(c, room) {
		t.Error("the invalidation was not applied")
	}
	writes["Update"](t, c)
	if aside.Pending(c, room) {
		t.Error("the update was not applied")
	}
}

// refusal is an error reply.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

// However many refusals to store come in a row, what is there is served.
func TestP5_ARefusalToStoreIsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		store.SetFault(func(_ context.Context, method string) error {
			time.Sleep(10 * time.Millisecond) // so that all Gets are answered before a Lease is
			if method == "Lease" {
				return refusal("OOM command not allowed when used memory > 'maxmemory'.")
			}
			return nil
		})
		for i := range 20 {
			go aside.GetOrLoad(t.Context(), c, aside.ChatMessages(fmt.Sprint(i)), func(context.Context) (int, error) { return i, nil })
		}
		time.Sleep(21 * time.Millisecond) // all have just been refused
		read(t, c, fails(t))
		time.Sleep(time.Second)
	})
}

// A server that runs no scripts serves what others have stored and takes invalidations,
// and the log says once what it lacks.
func TestP5_NoScriptsAllowed(t *testing.T) {
	t.Parallel()
	plain := func(t *testing.T, r *redistest.Server) aside.Redis {
		if err := r.Client().Do(t.Context(), "ACL", "SETUSER", "plain", "on", ">secret", "~*", "+@all", "-@scripting").Err(); err != nil {
			t.Fatal(err)
		}
		return aside.Redis{Hosts: []string{r.Addr}, Username: "plain", Password: "secret"}
	}
	for name, start := range map[string]func(t *testing.T) aside.Redis{
		"for this user": func(t *testing.T) aside.Redis { return plain(t, redistest.Start(t)) },
		"for anyone": func(t *testing.T) aside.Redis {
			r := redistest.Start(t, "--rename-command", "EVAL", "", "--rename-command", "EVALSHA", "")
			return aside.Redis{Hosts: []string{r.Addr}}
		},
		"a Valkey without Lua": func(t *testing.T) aside.Redis {
			return aside.Redis{Hosts: []string{refusesEval(t, "ERR Could not find scripting engine 'lua'")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servesWithoutScripts(t, aside.Config{Timeout: 20 * time.Second, Redis: start(t)}, "want EVAL and EVALSHA")
		})
	}
}

// A Redis before 5.0 refuses a script that writes after it has asked for the time. Of a
// node of a Cluster, that reply alone shows how old it is.
func TestP5_ScriptsThatRedis4Refuses(t *testing.T) {
	t.Parallel()
	addr := refusesEval(t, "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: Write commands not allowed after non deterministic commands. Call redis.replicate_commands() at the start of your script in order to switch to single commands replication mode.")
	servesWithoutScripts(t, aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{Hosts: []string{addr}}}, "too old: want Redis 6.0 or later")
}

// refusesEval starts a server that answers each script with the given reply: that of a
// Valkey 9.1 that was built without Lua, say, which has the commands, and nothing to run
// a script with.
func refusesEval(t *testing.T, reply string) (addr string) {
	m := miniredis.RunT(t)
	m.Server().SetPreHook(func(c *server.Peer, command string, _ ...string) bool {
		switch command {
		case "EVALSHA":
			c.WriteError("NOSCRIPT No matching script.")
		case "EVAL":
			c.WriteError(reply)
		default:
			return false
		}
		return true
	})
	return m.Addr()
}

func servesWithoutScripts(t *testing.T, cfg aside.Config, want string) {
	t.Helper()
	var log logtest.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	c := open(t, cfg)
	others := redis.NewClient(&redis.Options{Addr: cfg.Redis.Hosts[0]})
	t.Cleanup(func() { others.Close() })
	store := func() { others.Set(t.Context(), room.String(), `"theirs"`, time.Minute) }
	store()
	if got := read(t, c, fails(t)); got != "theirs" {
		t.Errorf("got %q", got)
	}
	for name, write := range writes {
		store()
		write(t, c)
		if others.Exists(t.Context(), room.String()).Val() != 0 || aside.Pending(c, room) {
			t.Errorf("%s was not applied", name)
		}
	}
	for range 5 {
		if got := read(t, c, func(context.Context) (string, error) { return "v", nil }); got != "v" {
			t.Errorf("got %q", got)
		}
	}
	store()
	if got := read(t, c, fails(t)); got != "theirs" {
		t.Errorf("got %q", got)
	}
	if err := c.Clear(t.Context()); err != nil || others.Exists(t.Context(), room.String()).Val() != 0 {
		t.Errorf("Clear: %v, or a value is left", err)
	}
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "does not store") || !strings.Contains(text, want) {
		t.Errorf("the log says:\n%s", text)
	}
}

// With any client that is handed in, a Redis that accepts and never answers costs a call at
// most the time budget. The bound is wide: it tells a budget of 250 ms from the
// 5 s that go-redis waits by itself.
func TestP5_BlackHole(t *testing.T) {
	t.Parallel()
	hole := must(net.Listen("tcp", "127.0.0.1:0"))
	defer hole.Close()
	addr := hole.Addr().String()
	clients := map[string]redis.UniversalClient{
		"default":         redis.NewClient(&redis.Options{Addr: addr}),
		"context timeout": redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true}),
		"cluster":         redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{addr}}),
		"sentinel":        redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{addr}}),
	}
	for name, client := range clients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := must(aside.NewRedis(client, aside.Config{}))
			defer client.Close()
			defer c.Close()
			var slow []time.Duration // one may be while this machine stands still
			for range 5 {
				start := time.Now()
				if got := read(t, c, func(context.Context) (string, error) { return "v", nil }); got != "v" {
					t.Errorf("got %q", got)
				}
				writes["Update"](t, c)
				if took := time.Since(start); took > 2*time.Second {
					slow = append(slow, took)
				}
			}
			if len(slow) > 1 {
				t.Errorf("calls took %v", slow)
			}
			if s, err := c.Status(t.Context()); err == nil || s.Breaker != "open" {
				t.Errorf("breaker %s, %v", s.Breaker, err)
			}
		})
	}
}

// The whole of an outage with a real server: killed, back; frozen, back.
func TestP6_RealOutages(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]struct{ begin, end func(*redistest.Server) }{
		"killed": {(*redistest.Server).Kill, (*redistest.Server).Start},
		"frozen": {
			(*redistest.Server).Pause,
			(*redistest.Server).Resume,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			cfg := aside.Config{Timeout: 250 * time.Millisecond}
			c, other := overRedis(t, r.Addr, cfg), overRedis(t, r.Addr, cfg)
			read(t, c, func(context.Context) (string, error) { return "old", nil })
			if r.Client().Exists(t.Context(), room.String()).Val() != 1 {
				t.Fatal("it is not stored: this would test nothing")
			}
			outage.begin(r)
			writes["Update"](t, c)
			if !aside.Pending(c, room) {
				t.Error("the update is not pending while Redis is away")
			}
			for range 5 {
				if got := read(t, c, func(context.Context) (string, error) { return "new", nil }); got != "new" {
					t.Errorf("while Redis is away: %q", got)
				}
			}
			outage.end(r)
			redistest.Eventually(t, "the invalidation is delivered", func() bool { return !aside.Pending(c, room) })
			if got := read(t, other, func(context.Context) (string, error) { return "new", nil }); got != "new" {
				t.Errorf("another process reads %q after the delivery", got)
			}
			redistest.Eventually(t, "hits come back", func() bool {
				before := asideStats(t, c).Hits
				read(t, c, func(context.Context) (string, error) { return "new", nil })
				return asideStats(t, c).Hits > before
			})
		})
	}
}

func TestP6_AnInvalidationIsKeptAndDelivered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		read(t, c, func(context.Context) (string, error) { return "old", nil })
		store.SetFault(refuse)
		writes["Invalidate"](t, c)
		store.SetFault(func(_ context.Context, method string) error {
			if method == "Delete" {
				return errDown // reads work, deliveries do not yet
			}
			return nil
		})
		for range 3 {
			if got := read(t, c, func(context.Context) (string, error) { return "new", nil }); got != "new" || !aside.Pending(c, room) {
				t.Errorf("read %q of a distrusted key", got)
			}
		}
		store.SetFault(nil)
		time.Sleep(2 * time.Second)
		if _, ok, _ := store.Backend.Get(t.Context(), room.String()); ok || aside.Pending(c, room) {
			t.Error("not delivered")
		}
		if s, _ := c.Status(t.Context()); s.Queued != 0 || s.Stats.InvalidationQueued != 1 {
			t.Errorf("status %+v", s)
		}
		read(t, c, func(context.Context) (string, error) { return "new", nil })
		read(t, c, fails(t))
	})
}

// Delivered before the write returned, an invalidation would let the old value
// in again.
func TestP6_NothingIsDeliveredWhileTheWriteRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		var loads counter
		store.SetFault(refuse)
		err := aside.Update(t.Context(), c, func(context.Context) error {
			writes["Invalidate"](t, c) // due, but not before the write is over
			store.SetFault(nil)
			time.Sleep(5 * time.Second)
			if !aside.Pending(c, room) {
				t.Error("trusted while the write runs")
			}
			read(t, c, loads.load("old"))
			if _, ok, _ := store.Backend.Get(t.Context(), room.String()); ok {
				t.Error("the old value was stored while the write runs")
			}
			return nil
		}, room)
		if err != nil {
			t.Error(err)
		}
		if got := read(t, c, loads.load("new")); got != "new" {
			t.Errorf("after the write: %q", got)
		}
	})
}

// A load that began before a write is not stored while the key is distrusted,
// though its lease still stands: the backend has not heard of the write.
func TestP6_NothingIsStoredUnderADistrustedKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		finish := slowLoad(t, c, "old")
		store.SetFault(func(_ context.Context, method string) error {
			if method == "Block" || method == "Unblock" || method == "Delete" {
				return errDown
			}
			return nil
		})
		writes["Update"](t, c)
		finish()
		if _, ok, _ := store.Backend.Get(t.Context(), room.String()); ok {
			t.Error("the old value was stored")
		}
		store.SetFault(nil)
		time.Sleep(2 * time.Second)
	})
}

func TestP6_AFullQueueIsSafe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{QueueSize: 10})
		defer c.Close()
		users := aside.Keyspace{Name: "user"}
		old := func(context.Context) (string, error) { return "old", nil }
		for i := range 30 {
			must(aside.GetOrLoad(t.Context(), c, users.Key(fmt.Sprint(i)), old))
		}
		store.SetFault(refuse)
		for i := range 30 {
			if err := aside.Invalidate(t.Context(), c, users.Key(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		s, _ := c.Status(t.Context())
		if s.Queued != 10 || !s.Overflowed {
			t.Errorf("queued %d, overflowed %v", s.Queued, s.Overflowed)
		}
		store.SetFault(func(_ context.Context, method string) error {
			if method == "Clear" {
				return errDown
			}
			return nil
		})
		check := func(when string) {
			for i := range 30 {
				if v := must(aside.GetOrLoad(t.Context(), c, users.Key(fmt.Sprint(i)), func(context.Context) (string, error) { return "new", nil })); v != "new" {
					t.Errorf("%s: key %d is %q", when, i, v)
				}
			}
		}
		time.Sleep(2 * time.Second)
		check("before the Clear")
		store.SetFault(nil)
		time.Sleep(2 * time.Second)
		check("after the Clear")
		if s, _ := c.Status(t.Context()); s.Overflowed || s.Queued != 0 {
			t.Errorf("after the Clear: %+v", s)
		}
	})
}

func TestP6_CloseDeliversOrSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, fault := range map[string]asidetest.Fault{"back": nil, "away": refuse} {
			c, store := faulty(t, aside.Config{})
			must(backendOf(c).Lease(t.Context(), "s:1", backend.LeaseRequest{TTL: time.Second}))
			store.SetFault(refuse)
			writes["Invalidate"](t, c)
			store.SetFault(fault)
			err := c.Close()
			if fault == nil && err != nil || fault != nil && (err == nil || !strings.Contains(err.Error(), "1 invalidations undelivered")) {
				t.Errorf("%s: Close returned %v", name, err)
			}
		}
	})
}

// An Update whose ctx ends while its keys are blocked does not write, whether or not the
// blocks were taken, and leaves no key blocked.
func TestP2_UpdateWhoseContextEndsDuringTheBlock(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{"taken": nil, "refused": errDown} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, store := faulty(t, aside.Config{})
			ctx, cancel := context.WithCancel(t.Context())
			store.SetFault(func(_ context.Context, method string) error {
				if method == "Block" {
					cancel()
					return fault
				}
				return nil
			})
			err := aside.Update(ctx, c, func(context.Context) error { t.Error("it writes"); return nil }, room)
			if err != context.Canceled {
				t.Errorf("got %v, want that ctx was canceled", err)
			}
			redistest.Eventually(t, "the key is trusted", func() bool { return !aside.Pending(c, room) })
			read(t, c, func(context.Context) (string, error) { return "v", nil })
			read(t, c, fails(t))
		})
	}
}

// closeFails is a backend whose Close fails, as that of a client may.
type closeFails struct{ *asidetest.Faulty }

var errClose = errors.New("the client is closed already")

func (c closeFails) Close() error { return errors.Join(errClose, c.Faulty.Close()) }

// Close returns the backend's error beside its own.
func TestClose_ReturnsAllErrors(t *testing.T) {
	t.Parallel()
	store := &asidetest.Faulty{Backend: asidetest.Memory()}
	c := must(aside.New(closeFails{store}, aside.Config{}))
	store.SetFault(refuse)
	if err := aside.Invalidate(t.Context(), c, room); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); !errors.Is(err, errClose) || !errors.Is(err, aside.ErrUnavailable) {
		t.Errorf("got %v, want the backend's error, and that an invalidation is left", err)
	}
}

func TestP2_RefuseWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{RefuseWrites: true})
		defer c.Close()
		write := func(context.Context) error { return nil }
		if err := aside.Update(t.Context(), c, write, room); err != nil {
			t.Error(err)
		}
		store.SetFault(refuse)
		err := aside.Update(t.Context(), c, func(context.Context) error { t.Error("wrote"); return nil }, room)
		if !errors.Is(err, aside.ErrWriteRefused) {
			t.Errorf("got %v", err)
		}
		store.SetFault(nil)
	})
}

// A script must not store a value although Redis has said that it is out of memory.
func TestP5_OutOfMemoryNothingIsStored(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--maxmemory-policy", "noeviction")
	c, client := overRedis(t, r.Addr, aside.Config{}), r.Client()
	l := must(backendOf(c).Lease(t.Context(), "s:leased", backend.LeaseRequest{TTL: time.Minute}))
	client.Set(t.Context(), "s:old", "v", time.Minute)
	client.ConfigSet(t.Context(), "maxmemory", "1")
	if err := backendOf(c).Block(t.Context(), "w", time.Minute, "s:old"); err != nil || client.Exists(t.Context(), "s:old").Val() != 0 {
		t.Errorf("a writer's block was not taken, or left the value: %v", err)
	}
	if _, err := backendOf(c).Fill(t.Context(), "s:leased", l.Token, backend.Fill{Value: []byte("v"), TTL: time.Minute}); err == nil {
		t.Error("Fill stored")
	}
	if _, err := backendOf(c).Lease(t.Context(), "s:new", backend.LeaseRequest{TTL: time.Minute}); err == nil {
		t.Error("Lease stored")
	}
	if err := c.Set(t.Context(), "s:set", []byte("v"), time.Minute); err == nil {
		t.Error("Set stored")
	}
	if n := client.Exists(t.Context(), "s:leased", "s:new", "{s:new}:lease", "s:set").Val(); n != 0 {
		t.Errorf("%d keys were stored", n)
	}
}

func TestP5_ManyShortDeadlinesOpenTheBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		store.SetFault(asidetest.Hang)
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if _, err := aside.GetOrLoad(ctx, c, room, func(context.Context) (string, error) { return "v", nil }); err != nil {
				t.Error(err)
			}
			cancel()
		}
		if s, _ := c.Status(t.Context()); s.Breaker != "open" {
			t.Errorf("the breaker is %s", s.Breaker)
		}
	})
}

// A user who may touch nothing but the cache's own keys gets his cache back after
// an outage.
func TestP6_WithRightsToTheKeyPrefixAlone(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	admin := r.Client()
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "app", "on", ">pw", "~app:*", "~{app:*", "~lease:app:*", "+@all", "-@admin", "-info", "-dbsize").Err(); err != nil {
		t.Fatal(err)
	}
	c := overRedis(t, r.Addr, aside.Config{Timeout: 250 * time.Millisecond, KeyPrefix: "app:", Redis: aside.Redis{Username: "app", Password: "pw"}})
	read(t, c, func(context.Context) (string, error) { return "v", nil })
	if s, err := c.Status(t.Context()); err != nil || s.Breaker != "closed" {
		t.Errorf("status %+v, %v", s, err)
	}
	r.Pause()
	for range 4 {
		writes["Update"](t, c)
		read(t, c, func(context.Context) (string, error) { return "w", nil })
	}
	r.Resume()
	redistest.Eventually(t, "the invalidation is delivered", func() bool { return !aside.Pending(c, room) })
	redistest.Eventually(t, "hits come back", func() bool {
		before := asideStats(t, c).Hits
		read(t, c, func(context.Context) (string, error) { return "w", nil })
		return asideStats(t, c).Hits > before
	})
}

// An invalidation that failed again while it was being delivered stays queued.
func TestP6_AnAcknowledgementRemovesItsOwnEntryOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		var deliveries atomic.Int64
		store.SetFault(refuse)
		writes["Invalidate"](t, c)
		store.SetFault(func(ctx context.Context, method string) error {
			if method == "Delete" && deliveries.Add(1) == 1 {
				// While the first delivery is on its way, another one is asked for and
				// cannot be delivered.
				store.SetFault(refuse)
				writes["Invalidate"](t, c)
			}
			return nil
		})
		time.Sleep(time.Second)
		if !aside.Pending(c, room) {
			t.Error("the acknowledgement of the first delivery removed the second invalidation")
		}
		store.SetFault(nil)
		time.Sleep(2 * time.Second)
		if aside.Pending(c, room) {
			t.Error("not delivered")
		}
	})
}

func TestP6_CloseDoesNotLoseAnInvalidationOnItsWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		store.SetFault(func(context.Context, string) error { time.Sleep(100 * time.Millisecond); return errDown })
		got := make(chan error, 1)
		go func() { got <- aside.Invalidate(context.Background(), c, room) }()
		synctest.Wait()
		closeErr := c.Close()
		if err := <-got; err == nil && closeErr == nil {
			t.Error("the invalidation was lost, and nobody was told")
		}
	})
}

// A Clear makes good what found no room in the queue before it began, not what did
// while it ran.
func TestP6_AnOverflowDuringAClearIsNotForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{QueueSize: 1})
		defer c.Close()
		for _, id := range []string{"1", "2"} {
			must(aside.GetOrLoad(t.Context(), c, aside.UserChats(id), func(context.Context) (string, error) { return "old", nil }))
		}
		invalidate := func(keys ...aside.Key) {
			store.SetFault(refuse)
			if err := aside.Invalidate(t.Context(), c, keys...); err != nil {
				t.Error(err)
			}
			store.SetFault(nil)
		}
		invalidate(room, aside.ChatMessages("B")) // the second overflows
		store.SetFault(func(_ context.Context, method string) error {
			if method == "Clear" {
				invalidate(aside.UserChats("1"), aside.UserChats("2"))
			}
			return nil
		})
		time.Sleep(5 * time.Second)
		for _, id := range []string{"1", "2"} {
			if got := must(aside.GetOrLoad(t.Context(), c, aside.UserChats(id), func(context.Context) (string, error) { return "new", nil })); got != "new" {
				t.Errorf("after all is delivered, the chats of user %s are %q", id, got)
			}
		}
		if s, _ := c.Status(t.Context()); s.Queued != 0 || s.Overflowed {
			t.Errorf("status %+v", s)
		}
	})
}

func TestP6_OverflowOfAKeyWithoutAKeyspace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{QueueSize: 1})
		defer c.Close()
		for _, key := range []string{"a", "b"} {
			if err := c.Set(t.Context(), key, []byte("old"), time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		store.SetFault(refuse)
		if err := c.Delete(t.Context(), "a", "b"); err != nil {
			t.Fatal(err)
		}
		store.SetFault(nil)
		time.Sleep(5 * time.Second)
		for _, key := range []string{"a", "b"} {
			if _, ok, _ := c.Get(t.Context(), key); ok {
				t.Errorf("%s is still served", key)
			}
		}
	})
}

// Several commands that wait for a silent backend open the breaker before the
// first of them times out; a backend that is slow, but answers, is not silent.
func TestP5_ASilentBackendIsLeftAloneSoon(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault asidetest.Fault
		want  string
	}{
		"silent": {asidetest.Hang, "open"},
		"slow":   {func(context.Context, string) error { time.Sleep(80 * time.Millisecond); return nil }, "closed"},
	} {
		synctest.Test(t, func(t *testing.T) {
			cache, store := faulty(t, aside.Config{})
			defer cache.Close()
			store.SetFault(c.fault)
			for i := range 20 {
				go aside.GetOrLoad(t.Context(), cache, aside.ChatMessages(fmt.Sprint(i)), func(context.Context) (int, error) { return i, nil })
				time.Sleep(5 * time.Millisecond)
			}
			if s, _ := cache.Status(t.Context()); s.Breaker != c.want {
				t.Errorf("%s: after 100ms the breaker is %s", name, s.Breaker)
			}
			store.SetFault(nil)
			time.Sleep(time.Second)
			if s, _ := cache.Status(t.Context()); s.Breaker != "closed" {
				t.Errorf("%s: at the end the breaker is %s", name, s.Breaker)
			}
		})
	}
}

// With WaitReplicas an invalidation that no replica has is not applied yet.
func TestP6_AnInvalidationWaitsForReplicas(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--repl-diskless-sync-delay", "0")
	c := overRedis(t, r.Addr, aside.Config{WaitReplicas: 1, Timeout: 250 * time.Millisecond})
	if err := backendOf(c).Block(t.Context(), "w", time.Second, "s:other"); !errors.Is(err, aside.ErrUnavailable) {
		t.Errorf("a block that no replica has was taken: %v", err)
	}
	writes["Invalidate"](t, c)
	if !aside.Pending(c, room) {
		t.Error("applied, and no replica has it")
	}
	if s, _ := c.Status(t.Context()); s.Breaker != "closed" {
		t.Errorf("the breaker is %s: a missing replica is no outage", s.Breaker)
	}
	host, port, _ := net.SplitHostPort(r.Addr)
	redistest.Start(t, "--replicaof", host, port, "--repl-diskless-sync-delay", "0")
	redistest.Eventually(t, "it is applied", func() bool { return !aside.Pending(c, room) })
	redistest.Eventually(t, "hits come back", func() bool {
		before := asideStats(t, c).Hits
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		return asideStats(t, c).Hits > before
	})
}

// A user who may not WAIT, or may not run scripts, has no invalidation applied
// that no replica has, and lifts nobody's block.
func TestP6_RightsAndReplicas(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	admin := overRedis(t, r.Addr, aside.Config{})
	for _, rule := range []string{"-wait", "-@scripting"} {
		user := "without" + rule
		if err := r.Client().Do(t.Context(), "ACL", "SETUSER", user, "on", ">p", "~*", "+@all", rule).Err(); err != nil {
			t.Fatal(err)
		}
		c := overRedis(t, r.Addr, aside.Config{WaitReplicas: 1, Timeout: time.Second, Redis: aside.Redis{Username: user, Password: "p"}})
		if err := backendOf(admin).Block(t.Context(), "w", time.Minute, room.String()); err != nil {
			t.Fatal(err)
		}
		writes["Invalidate"](t, c)
		if !aside.Pending(c, room) {
			t.Errorf("%s: applied, and no replica has it", rule)
		}
		if l := must(backendOf(admin).Lease(t.Context(), room.String(), backend.LeaseRequest{TTL: time.Second})); l.State != backend.Writing {
			t.Errorf("%s: another writer's block was lifted: %v", rule, l.State)
		}
	}
}

// One invalidation that Redis refuses does not hold up those that were queued with
// it.
func TestP6_ARefusedInvalidationHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	if err := r.Client().Do(t.Context(), "ACL", "SETUSER", "chats", "on", ">p", "~chat_messages:*", "~{chat_messages:*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	c := overRedis(t, r.Addr, aside.Config{Timeout: 250 * time.Millisecond, Redis: aside.Redis{Username: "chats", Password: "p"}})
	r.Pause()
	if err := aside.Invalidate(t.Context(), c, aside.UserChats("not allowed"), room); err != nil {
		t.Fatal(err)
	}
	r.Resume()
	redistest.Eventually(t, "the other is delivered", func() bool { return !aside.Pending(c, room) })
	if !aside.Pending(c, aside.UserChats("not allowed")) {
		t.Error("what Redis refused is taken for delivered")
	}
}

func TestP6_CloseDeliversAnOverflowOrSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, fault := range map[string]asidetest.Fault{"back": nil, "away": refuse} {
			c, store := faulty(t, aside.Config{QueueSize: 1})
			other := aside.ChatMessages("B")
			for _, key := range []aside.Key{room, other} {
				must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return "old", nil }))
			}
			store.SetFault(refuse)
			if err := aside.Invalidate(t.Context(), c, room, other); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			left := 2
			store.SetFault(func(ctx context.Context, method string) error {
				if fault != nil {
					return fault(ctx, method)
				}
				if method == "Delete" || method == "Clear" {
					left--
				}
				return nil
			})
			if err := c.Close(); (err == nil) != (fault == nil) || fault == nil && left > 0 {
				t.Errorf("%s: Close returned %v, and %d of a Delete and a Clear were not tried", name, err, left)
			}
		}
	})
}

// A lease that cannot be given back is paid for once.
func TestP5_OneBudgetForAFailedLoadsLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		go aside.GetOrLoad(t.Context(), c, room, func(context.Context) (string, error) {
			time.Sleep(time.Second)
			return "", errors.New("database down")
		})
		time.Sleep(900 * time.Millisecond)
		time.AfterFunc(50*time.Millisecond, func() { store.SetFault(asidetest.Hang) })
		start := time.Now()
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		if took := time.Since(start); took > 350*time.Millisecond { // the load's last 100 ms, and a budget
			t.Errorf("the call took %v", took)
		}
		store.SetFault(nil)
		time.Sleep(time.Second)
	})
}

// The time that a call's first command has cost is not there for its next command.
func TestP5_OneBudgetForACallOfSeveralCommands(t *testing.T) {
	t.Parallel()
	calls := map[string]func(t *testing.T, c aside.Cache, backend *asidetest.Faulty) (call func()){
		"Update": func(t *testing.T, c aside.Cache, _ *asidetest.Faulty) func() {
			return func() { writes["Update"](t, c) }
		},
		"Start": func(t *testing.T, c aside.Cache, _ *asidetest.Faulty) func() {
			gs := generations(t, c)
			return func() { must(gs.Start(t.Context(), "A")) }
		},
		"Finish": func(t *testing.T, c aside.Cache, _ *asidetest.Faulty) func() {
			return must(generations(t, c).Start(t.Context(), "A")).Finish
		},
		"Start after a Finish that was not heard": func(t *testing.T, c aside.Cache, store *asidetest.Faulty) func() {
			gs := generations(t, c)
			g := must(gs.Start(t.Context(), "A"))
			store.SetFault(func(_ context.Context, method string) error {
				if method == "Release" {
					return errDown
				}
				return nil
			})
			g.Finish()
			return func() { must(gs.Start(t.Context(), "A")) }
		},
	}
	for name, prepare := range calls {
		synctest.Test(t, func(t *testing.T) {
			c, store := faulty(t, aside.Config{})
			defer c.Close()
			call := prepare(t, c, store)
			store.SetFault(asidetest.Hang)
			start := time.Now()
			call()
			if took := time.Since(start); took > 300*time.Millisecond {
				t.Errorf("%s took %v", name, took)
			}
			store.SetFault(nil)
			time.Sleep(time.Second)
		})
	}
}

// The database has changed, whether or not the caller is still there: its
// invalidation is applied, not queued.
func TestP6_AnInvalidationOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	c, store := faulty(t, aside.Config{})
	store.SetFault(func(ctx context.Context, _ string) error { return ctx.Err() }) // as a client does
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if err := aside.Invalidate(ctx, c, room); err != nil || aside.Pending(c, room) {
		t.Errorf("err %v, pending %v", err, aside.Pending(c, room))
	}
	if s := asideStats(t, c); s.Invalidated != 1 || s.InvalidationQueued != 0 {
		t.Errorf("stats %+v", s)
	}
}
