package aside_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redistest"
)

func TestP1_ALoadThatBeganBeforeAWriteIsNotStored(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		for name, write := range writes {
			c := newCache(t)
			finish := slowLoad(t, c, "old")
			write(t, c)
			finish()
			var loads counter
			if got := read(t, c, loads.load("new")); got != "new" {
				t.Errorf("%s: a reader after the write got %q", name, got)
			}
			if got := read(t, c, fails(t)); got != "new" {
				t.Errorf("%s: stored %q", name, got)
			}
			write(t, c)
		}
	})
}

func TestP1_AReaderAfterAWriteDoesNotWaitForTheOldLoad(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		for name, write := range writes {
			c := newCache(t)
			finish := slowLoad(t, c, "old")
			write(t, c)
			var loads counter
			if got := read(t, c, loads.load("new")); got != "new" {
				t.Errorf("%s: a reader after the write got %q", name, got)
			}
			finish()
			write(t, c)
		}
	}
	storing(t, check)
	t.Run("none", func(t *testing.T) {
		check(t, func(t *testing.T) aside.Cache { return open(t, aside.Config{Type: "none"}) })
	})
}

func TestP1_AWriteInAnotherProcessWins(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	for name, write := range writes {
		one, two := overRedis(t, server.Addr(), aside.Config{}), overRedis(t, server.Addr(), aside.Config{})
		finish := slowLoad(t, one, "old")
		write(t, two)
		// A reader in the first process comes after the write: the old load still
		// runs there, and its result is not for him.
		got, before := make(chan string), server.CommandCount()
		go func() { got <- read(t, one, func(context.Context) (string, error) { return "new", nil }) }()
		redistest.Eventually(t, "the reader has looked", func() bool { return server.CommandCount() > before })
		time.Sleep(20 * time.Millisecond) // and joined, if it ever does
		finish()
		if v := <-got; v != "new" {
			t.Errorf("%s: a reader after the write got %q", name, v)
		}
		if v := read(t, two, func(context.Context) (string, error) { return "new", nil }); v != "new" {
			t.Errorf("%s: stored %q", name, v)
		}
		write(t, one)
	}
}

// A failover can bring back the lease that a write has ended. The load that holds
// it does not use it, as the write was made in its own process.
func TestP1_ALeaseThatCameBackStoresNothing(t *testing.T) {
	t.Parallel()
	for name, write := range writes {
		server := miniredis.RunT(t)
		c := overRedis(t, server.Addr(), aside.Config{})
		finish := slowLoad(t, c, "old")
		const lease = "{chat_messages:A}:lease"
		held, err := server.Get(lease)
		if err != nil {
			t.Fatal("the load holds no lease")
		}
		write(t, c)
		if err := server.Set(lease, held); err != nil {
			t.Fatal(err)
		}
		finish()
		if value, err := server.Get(room.String()); err == nil {
			t.Errorf("%s: stored %q", name, value)
		}
	}
}

func TestP1_WhileAWriteRunsNothingIsStored(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		var loads counter
		err := aside.Update(t.Context(), c, func(context.Context) error {
			for range 3 {
				read(t, c, loads.load("old"))
			}
			return nil
		}, room)
		if err != nil || loads.Load() != 3 {
			t.Errorf("err %v, %d loads during the write, want 3", err, loads.Load())
		}
		if got := read(t, c, loads.load("new")); got != "new" {
			t.Errorf("after the write: %q", got)
		}
	})
}

func TestP1_AFailedWriteInvalidates(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		failed := errors.New("timed out, perhaps committed")
		read(t, c, func(context.Context) (string, error) { return "old", nil })
		if err := aside.Update(t.Context(), c, func(context.Context) error { return failed }, room); err != failed {
			t.Errorf("Update returned %v, want the write's error", err)
		}
		if got := read(t, c, func(context.Context) (string, error) { return "new", nil }); got != "new" {
			t.Errorf("after the failed write: %q", got)
		}
		func() {
			defer func() { recover() }()
			_ = aside.Update(t.Context(), c, func(context.Context) error { panic("write") }, room)
			t.Error("the write's panic was swallowed")
		}()
		if got := read(t, c, func(context.Context) (string, error) { return "newer", nil }); got != "newer" {
			t.Errorf("after the write that panicked: %q", got)
		}
		if got := read(t, c, fails(t)); got != "newer" {
			t.Errorf("stored %q: the panicking write left its block", got)
		}
	})
}

// register is a database of one value whose writes commit one after another.
type register struct{ version atomic.Int64 }

// race runs readers and writers of one register through caches, and checks that
// no read returns less than what was committed by a write that had returned
// before the read began, or than an earlier read had returned.
func race(t *testing.T, caches []aside.Cache, d time.Duration, queuedIsLocal bool) {
	var (
		db       register
		applied  atomic.Int64                        // the newest version whose write has returned
		local    = make([]atomic.Int64, len(caches)) // the same of writes whose invalidation was queued
		highest  atomic.Int64                        // the newest version a read has returned
		wg       sync.WaitGroup
		reads    atomic.Int64
		deadline = time.Now().Add(d)
		goesOn   = func() bool {
			return time.Now().Before(deadline) || reads.Load() < 50 && time.Now().Before(deadline.Add(time.Minute))
		}
		storeMax = func(a *atomic.Int64, v int64) {
			for old := a.Load(); v > old && !a.CompareAndSwap(old, v); old = a.Load() {
			}
		}
	)
	for i, c := range caches {
		for range 6 {
			wg.Go(func() {
				for goesOn() {
					floor := max(applied.Load(), local[i].Load())
					if !queuedIsLocal {
						floor = max(floor, highest.Load())
					}
					v, err := aside.GetOrLoad(context.Background(), c, room, func(context.Context) (int64, error) {
						v := db.version.Load()
						time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
						return v, nil
					})
					if err != nil {
						t.Error(err)
						return
					}
					if v < floor {
						t.Errorf("cache %d: read %d after %d was written or read", i, v, floor)
						return
					}
					storeMax(&highest, v)
					reads.Add(1)
				}
			})
		}
		wg.Go(func() {
			for goesOn() {
				time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond)
				var v int64
				err := aside.Update(context.Background(), c, func(context.Context) error {
					time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
					v = db.version.Add(1)
					time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
					return nil
				}, room)
				if err != nil {
					t.Error(err)
					return
				}
				if aside.Pending(c, room) {
					storeMax(&local[i], v)
				} else if !queuedIsLocal {
					storeMax(&applied, v)
				} else {
					storeMax(&local[i], v)
				}
			}
		})
	}
	wg.Wait()
	if reads.Load() < 50 {
		t.Errorf("only %d reads: the race has shown nothing", reads.Load())
	}
}

func TestP1_Race(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		race(t, []aside.Cache{newCache(t)}, time.Second, false)
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		race(t, []aside.Cache{open(t, aside.Config{Type: "none"})}, time.Second, false)
	})
	t.Run("two processes", func(t *testing.T) {
		t.Parallel()
		r := redistest.Start(t)
		race(t, []aside.Cache{overRedis(t, r.Addr, aside.Config{}), overRedis(t, r.Addr, aside.Config{})}, 2*time.Second, false)
	})
}

// With a backend whose commands fail at random, before or after they were carried
// out, a process sees at least its own writes.
func TestP1_RaceUnderFaults(t *testing.T) {
	t.Parallel()
	memory := open(t, aside.Config{Type: "memory"})
	failed := errors.New("connection reset")
	caches := make([]aside.Cache, 2)
	for i := range caches {
		backend := &lossy{Backend: backendOf(memory), err: failed}
		caches[i] = must(aside.New(backend, aside.Config{}))
		t.Cleanup(func() { caches[i].Close() })
	}
	race(t, caches, 2*time.Second, true)
}

// lossy loses one call in eight, and the replies of as many.
type lossy struct {
	backend.Backend
	err error
}

func (l *lossy) lose() (before, after bool) {
	n := rand.IntN(8)
	return n == 0, n == 1
}

func lose(l *lossy, call func() error) error {
	before, after := l.lose()
	if before {
		return l.err
	}
	err := call()
	if after {
		return l.err
	}
	return err
}

func (l *lossy) Delete(ctx context.Context, keys ...string) error {
	return lose(l, func() error { return l.Backend.Delete(ctx, keys...) })
}

func (l *lossy) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error {
	return lose(l, func() error { return l.Backend.Block(ctx, token, ttl, keys...) })
}

func (l *lossy) Unblock(ctx context.Context, token string, keys ...string) error {
	return lose(l, func() error { return l.Backend.Unblock(ctx, token, keys...) })
}

func (l *lossy) Lease(ctx context.Context, key string, req backend.LeaseRequest) (lease backend.Lease, err error) {
	err = lose(l, func() (err error) { lease, err = l.Backend.Lease(ctx, key, req); return err })
	return lease, err
}

func (l *lossy) Fill(ctx context.Context, key, token string, fill backend.Fill) (stored bool, err error) {
	err = lose(l, func() (err error) { stored, err = l.Backend.Fill(ctx, key, token, fill); return err })
	return stored, err
}

func TestP2_AWriterThatDiesLeavesNothingStale(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		dying := &asidetest.Faulty{Backend: backendOf(c)}
		process := must(aside.New(dying, aside.Config{Timeout: 20 * time.Second}))
		defer process.Close()
		read(t, c, func(context.Context) (string, error) { return "old", nil })
		err := aside.Update(t.Context(), process, func(context.Context) error {
			dying.SetFault(func(context.Context, string) error { return errors.New("dead") })
			return nil
		}, room)
		if err != nil {
			t.Fatal(err)
		}
		var loads counter
		for range 2 {
			if got := read(t, c, loads.load("new")); got != "new" {
				t.Errorf("after the writer died: %q", got)
			}
		}
		if loads.Load() != 2 {
			t.Errorf("%d loads, want 2: while the block stands nothing is stored", loads.Load())
		}
	})
}

func TestP2_AWriteStopsBeforeItsBlockLapses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, backend := faulty(t, aside.Config{})
		defer c.Close()
		var started time.Time
		err := aside.Update(t.Context(), c, func(ctx context.Context) error {
			time.Sleep(time.Minute)
			if err := ctx.Err(); err != nil {
				t.Errorf("after a minute of extending: %v", err)
			}
			backend.SetFault(func(_ context.Context, method string) error {
				if method == "Extend" {
					return errDown
				}
				return nil
			})
			started = time.Now()
			select {
			case <-ctx.Done():
			case <-time.After(time.Minute):
			}
			return context.Cause(ctx)
		}, room)
		if !errors.Is(err, aside.ErrBlockLost) || time.Since(started) > 10*time.Second {
			t.Errorf("the write ended with %v after %v, want ErrBlockLost before 10s", err, time.Since(started))
		}
	})
}

// lateReplies holds the replies of one method back for a second, once it was
// carried out.
type lateReplies struct {
	backend.Backend
	method string
}

func (l *lateReplies) Fill(ctx context.Context, key, token string, fill backend.Fill) (bool, error) {
	stored, err := l.Backend.Fill(ctx, key, token, fill)
	if l.method == "Fill" {
		time.Sleep(100 * time.Millisecond)
	}
	return stored, err
}

func (l *lateReplies) Lease(ctx context.Context, key string, req backend.LeaseRequest) (backend.Lease, error) {
	lease, err := l.Backend.Lease(ctx, key, req)
	if l.method == "Lease" && lease.State == backend.Present {
		time.Sleep(100 * time.Millisecond)
	}
	return lease, err
}

// The value was stored, and found, before another process wrote; the reader comes
// after that write, while the reply is on its way.
func TestP1_AReaderDoesNotTakeWhatWasStoredOrFoundBeforeItCame(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"Fill", "Lease"} {
		synctest.Test(t, func(t *testing.T) {
			memory := must(aside.Open(aside.Config{Type: "memory"}))
			one := must(aside.New(&lateReplies{Backend: backendOf(memory), method: method}, aside.Config{}))
			two := must(aside.New(backendOf(memory), aside.Config{}))
			defer two.Close()
			defer one.Close()
			var foreign backend.Lease
			if method == "Lease" {
				foreign = must(backendOf(memory).Lease(t.Context(), room.String(), backend.LeaseRequest{TTL: time.Minute}))
			}
			go aside.GetOrLoad(t.Context(), one, room, func(context.Context) (string, error) { return "old", nil })
			synctest.Wait() // the reply to Fill is held back, or the lease is waited for
			if method == "Lease" {
				must(backendOf(memory).Fill(t.Context(), room.String(), foreign.Token, backend.Fill{Value: []byte(`"old"`), TTL: time.Minute}))
				time.Sleep(20 * time.Millisecond) // the value was found; the reply is held back
			}
			writes["Update"](t, two)
			if got := read(t, one, func(context.Context) (string, error) { return "new", nil }); got != "new" {
				t.Errorf("%s: a reader after the write got %q", method, got)
			}
			time.Sleep(time.Second)
		})
	}
}

// A client library may send a command again on another connection, and the first
// copy arrive late: it must not bring a lease back to life.
func TestP1_ALateCopyOfALeaseRequestGrantsAnotherLease(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { client.Close() })
	last := &recordScripts{}
	client.AddHook(last)
	c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second}))
	t.Cleanup(func() { c.Close() })
	l := must(backendOf(c).Lease(t.Context(), "s:1", backend.LeaseRequest{TTL: time.Minute}))
	request := last.args
	if err := c.Delete(t.Context(), "s:1"); err != nil {
		t.Fatal(err)
	}
	if err := client.Do(t.Context(), request...).Err(); err != nil {
		t.Fatal(err)
	}
	if stored := must(backendOf(c).Fill(t.Context(), "s:1", l.Token, backend.Fill{Value: []byte("old"), TTL: time.Minute})); stored {
		t.Error("a load that began before the invalidation was stored")
	}
}

// A client that sends a lease request again, as the answer was lost, gets the lease
// that the first one was granted, and does not wait until it ends.
func TestP5_ALeaseWhoseAnswerWasLostIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { client.Close() })
	client.AddHook(sendTwice{})
	c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second}))
	t.Cleanup(func() { c.Close() })
	l := must(backendOf(c).Lease(t.Context(), "s:1", backend.LeaseRequest{TTL: time.Minute}))
	if l.State != backend.Granted {
		t.Fatalf("got %+v", l)
	}
	if other := must(backendOf(c).Lease(t.Context(), "s:1", backend.LeaseRequest{TTL: time.Minute})); other.State != backend.Loading || other.Token != l.Token {
		t.Errorf("another request got %+v, beside %+v", other, l)
	}
	if err := c.Delete(t.Context(), "s:1"); err != nil {
		t.Fatal(err)
	}
	if stored := must(backendOf(c).Fill(t.Context(), "s:1", l.Token, backend.Fill{Value: []byte("old"), TTL: time.Minute})); stored {
		t.Error("a load that began before the invalidation was stored")
	}
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if v, err := aside.GetOrLoad(soon, c, items.Key("1"), func(context.Context) (string, error) { return "loaded", nil }); v != "loaded" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	aside.AwaitFills(c)
	if got, err := server.Get("item:1"); got != `"loaded"` || err != nil {
		t.Errorf("stored is %q, %v", got, err)
	}
}

// sendTwice sends each lease request twice, and drops the first answer.
type sendTwice struct{}

func (sendTwice) DialHook(next redis.DialHook) redis.DialHook { return next }

func (sendTwice) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if n := len(cmd.Args()); strings.HasPrefix(cmd.Name(), "eval") && n > 10 { // no other script has so many
			_ = next(ctx, redis.NewCmd(ctx, cmd.Args()...))
		}
		return next(ctx, cmd)
	}
}

func (sendTwice) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// recordScripts keeps the last script command that was answered.
type recordScripts struct{ args []any }

func (r *recordScripts) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *recordScripts) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && (cmd.Name() == "eval" || cmd.Name() == "evalsha") {
			r.args = cmd.Args()
		}
		return err
	}
}

func (r *recordScripts) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
