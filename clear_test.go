package aside_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
)

// pages is a hook that makes a Redis of many keys of one of few: each SCAN of the
// whole takes as many commands as there are pages, and the keys stand on the last
// one. It also is what the server is known by.
type pages struct {
	pages  uint64
	takes  time.Duration
	fails  func(pattern string, page uint64) error // is asked before each, and before a pipeline, by its first command
	server atomic.Value                            // its run ID
	seen   []string                                // pattern and page of each SCAN
}

func (p *pages) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *pages) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if p.fails != nil {
			does := cmds[0].Name()
			if does == "eval" { // its text begins with the script's name
				does = strings.TrimPrefix(strings.SplitN(cmds[0].Args()[1].(string), "\n", 2)[0], "-- ")
			}
			if err := p.fails(does, 0); err != nil {
				return err
			}
		}
		return next(ctx, cmds)
	}
}

func (p *pages) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		switch cmd := cmd.(type) {
		case *redis.ScanCmd:
			page, pattern := cmd.Args()[1].(uint64), cmd.Args()[3].(string)
			p.seen = append(p.seen, fmt.Sprintf("%s %d", pattern, page))
			if p.fails != nil {
				if err := p.fails(pattern, page); err != nil {
					cmd.SetErr(err)
					return err
				}
			}
			if time.Sleep(p.takes); page < p.pages-1 {
				cmd.SetVal(nil, page+1)
				return nil
			}
			cmd.Args()[1] = uint64(0)
		case *redis.StringCmd:
			if id, ok := p.server.Load().(string); ok && cmd.Name() == "info" {
				cmd.SetVal("# Server\r\nrun_id:" + id + "\r\n")
				return nil
			}
		}
		return next(ctx, cmd)
	}
}

// overPages runs test in a bubble, with a Cache over a Redis that takes so many
// SCANs, each of so long, to be looked through.
func overPages(t *testing.T, cfg aside.Config, n uint64, takes time.Duration, test func(t *testing.T, c aside.Cache, l *line, p *pages, server *miniredis.Miniredis)) {
	synctest.Test(t, func(t *testing.T) {
		server, l, p := miniredis.NewMiniRedis(), &line{}, &pages{pages: n, takes: takes}
		defer server.Close()
		client := redis.NewClient(l.options(server))
		client.AddHook(l)
		client.AddHook(p)
		defer client.Close()
		c := must(aside.NewRedis(client, cfg))
		defer c.Close()
		test(t, c, l, p, server)
	})
}

// overflowIn has the queue overflow, while Redis hangs, and returns when Redis answers
// again.
func overflowIn(t *testing.T, c aside.Cache, l *line) {
	t.Helper()
	l.hang(true)
	for i := range 5 {
		if err := aside.Invalidate(t.Context(), c, aside.ChatMessages(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if s, _ := c.Status(t.Context()); !s.Overflowed {
		t.Fatalf("status %+v", s)
	}
	l.hang(false)
}

// trustedWithin waits for the end of an overflow.
func trustedWithin(t *testing.T, c aside.Cache, d time.Duration) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		s, err := c.Status(t.Context())
		if err == nil && !s.Overflowed && s.Queued == 0 {
			return
		}
		if time.Since(start) > d {
			t.Fatalf("after %v: status %+v, %v", time.Since(start), s, err)
		}
	}
}

// A Clear takes as long as it takes, whether it is owed or called.
func TestClear_OfALargeRedisOverASlowLine(t *testing.T) {
	t.Parallel()
	const n, takes = 2000, 100 * time.Millisecond // 2000 SCANs of leases and as many of values: over six minutes
	overPages(t, aside.Config{QueueSize: 2}, n, takes, func(t *testing.T, c aside.Cache, l *line, p *pages, server *miniredis.Miniredis) {
		for i := range 5 {
			server.Set(fmt.Sprint("chat_messages:", i), `"old"`)
		}
		overflowIn(t, c, l)
		trustedWithin(t, c, 10*time.Minute)
		if left := server.Keys(); len(left) > 0 {
			t.Errorf("after the owed Clear: %q", left)
		}
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		read(t, c, fails(t)) // a hit

		start := time.Now()
		if err := c.Clear(t.Context(), "chat_messages:"); err != nil || time.Since(start) < 5*time.Minute {
			t.Errorf("Clear: %v, after %v", err, time.Since(start))
		}
		if left := server.Keys(); len(left) > 0 {
			t.Errorf("after Clear: %q", left)
		}
	})
}

// An owed Clear that is interrupted goes on where it was, with what was left: no page
// is looked at twice but that at which it stood, and no value is removed before the
// last lease has ended.
func TestClear_GoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	overPages(t, aside.Config{QueueSize: 2}, 100, time.Millisecond, func(t *testing.T, c aside.Cache, l *line, p *pages, server *miniredis.Miniredis) {
		p.server.Store("one")
		other := redis.NewClient(l.options(server))
		defer other.Close()
		elsewhere := must(aside.NewRedis(other, aside.Config{}))
		defer elsewhere.Close()
		lease := must(backendOf(elsewhere).Lease(t.Context(), "chat_messages:3", backend.LeaseRequest{TTL: time.Hour}))
		tried := make(map[string]bool)
		p.fails = func(pattern string, page uint64) error {
			at := fmt.Sprint(pattern, page)
			if scans := strings.HasSuffix(pattern, "*"); scans && page%30 != 29 || tried[at] {
				return nil
			}
			tried[at] = true
			return errDown
		}
		server.Set("chat_messages:4", `"old"`)
		overflowIn(t, c, l)
		trustedWithin(t, c, time.Minute)
		if !tried["end lease0"] || !tried["clear0"] || server.Exists("chat_messages:4") {
			t.Errorf("failed were %v; left are %q", tried, server.Keys())
		}
		if stored, err := backendOf(elsewhere).Fill(t.Context(), "chat_messages:3", lease.Token, backend.Fill{Value: []byte("old"), TTL: time.Hour}); stored || err != nil {
			t.Errorf("a lease from before the Clear is still good: %v, %v", stored, err)
		}
		var want []string
		for _, pattern := range []string{"*lease*", "chat_messages:*"} {
			for page := range uint64(100) {
				if want = append(want, fmt.Sprintf("%s %d", pattern, page)); page%30 == 29 {
					want = append(want, want[len(want)-1])
				}
			}
		}
		if !slices.Equal(p.seen, want) {
			t.Errorf("scanned %q", p.seen)
		}
	})
}

// A cursor is one of a server's: on another one, which may still have what was removed
// on the first, all begins anew.
func TestClear_BeginsAnewOnAnotherServer(t *testing.T) {
	t.Parallel()
	overPages(t, aside.Config{}, 100, time.Millisecond, func(t *testing.T, c aside.Cache, l *line, p *pages, server *miniredis.Miniredis) {
		p.server.Store("one")
		p.fails = func(pattern string, page uint64) error {
			if pattern == "chat_messages:*" && page == 50 {
				p.server.Store("two")
			}
			return nil
		}
		if err := c.Clear(t.Context(), "chat_messages:"); err != nil {
			t.Error(err)
		}
		if len(p.seen) != 400 || p.seen[200] != "*lease* 0" || p.seen[399] != "chat_messages:* 99" {
			t.Errorf("scanned %q", p.seen)
		}
	})
}

// A Clear ends when a step gets no answer, not after all of its steps.
func TestClear_EndsWhenAStepHangs(t *testing.T) {
	t.Parallel()
	overPages(t, aside.Config{}, 1000, time.Millisecond, func(t *testing.T, c aside.Cache, l *line, p *pages, server *miniredis.Miniredis) {
		time.AfterFunc(time.Second, func() { l.hang(true) })
		start := time.Now()
		err := c.Clear(t.Context())
		if took := time.Since(start); !errors.Is(err, aside.ErrUnavailable) || took > 1300*time.Millisecond {
			t.Errorf("Clear: %v, after %v", err, took)
		}
		l.hang(false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		err = c.Clear(ctx)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 1300*time.Millisecond {
			t.Errorf("Clear whose context ends: %v, after %v", err, took)
		}
	})
}

// While a Clear that takes minutes is on its way, invalidations are delivered.
func TestP6_AnOwedClearHoldsUpNoInvalidation(t *testing.T) {
	t.Parallel()
	overPages(t, aside.Config{QueueSize: 2}, 2000, 100*time.Millisecond, func(t *testing.T, c aside.Cache, l *line, p *pages, server *miniredis.Miniredis) {
		overflowIn(t, c, l)
		time.Sleep(10 * time.Second)
		server.Set(room.String(), `"old"`)
		l.hang(true)
		writes["Invalidate"](t, c)
		l.hang(false)
		time.Sleep(2 * time.Second)
		if s, err := c.Status(t.Context()); s.Queued != 0 || !s.Overflowed || server.Exists(room.String()) {
			t.Errorf("the invalidation waits for the Clear: %+v, %v", s, err)
		}
		trustedWithin(t, c, 10*time.Minute)
	})
}

// A key that overflows while a Clear is owed does not make that Clear begin anew.
func TestP6_AnOverflowDuringAnOwedClear(t *testing.T) {
	t.Parallel()
	overPages(t, aside.Config{QueueSize: 1}, 100, 10*time.Millisecond, func(t *testing.T, c aside.Cache, l *line, p *pages, server *miniredis.Miniredis) {
		p.server.Store("one")
		overflowIn(t, c, l)
		time.Sleep(1500 * time.Millisecond)
		server.Set("user_chats:1", `"old"`)
		l.hang(true)
		if err := aside.Invalidate(t.Context(), c, room, aside.ChatMessages("9"), aside.UserChats("1"), aside.UserChats("2")); err != nil {
			t.Fatal(err)
		}
		l.hang(false)
		trustedWithin(t, c, time.Minute)
		first := slices.Index(p.seen, "chat_messages:* 99")
		again := slices.Index(p.seen, "user_chats:* 0")
		if first < 0 || again < first || len(slices.Compact(p.seen[:first+1])) != 200 {
			t.Errorf("scanned %q", p.seen)
		}
		if slices.Index(p.seen[first+1:], "chat_messages:* 99") < 0 {
			t.Error("what overflowed later in the same keyspace is taken for cleared")
		}
		if server.Exists("user_chats:1") {
			t.Error("the value of what overflowed later is left")
		}
	})
}

// Close goes on for as long as Redis answers, up to five seconds, and then says what is
// left.
func TestP6_CloseDeliversALongQueue(t *testing.T) {
	t.Parallel()
	for delay, all := range map[time.Duration]bool{5 * time.Millisecond: true, 100 * time.Millisecond: false} {
		overPages(t, aside.Config{}, 1, 0, func(t *testing.T, c aside.Cache, l *line, p *pages, server *miniredis.Miniredis) {
			var keys []aside.Key
			for i := range 20_000 {
				keys = append(keys, aside.UserChats(fmt.Sprint(i)))
			}
			l.hang(true)
			if err := aside.Invalidate(t.Context(), c, keys...); err != nil {
				t.Fatal(err)
			}
			l.hang(false)
			l.arrives = func(string) { time.Sleep(delay) }
			start := time.Now()
			err := c.Close()
			if took := time.Since(start); (err == nil) != all || took > 6*time.Second {
				t.Errorf("%v a command: Close returned %v after %v", delay, err, took)
			}
		})
	}
}

// A backend that cannot go on where it was has more time with each try.
func TestP6_AnOwedClearOfAnotherBackendGetsItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, backend := faulty(t, aside.Config{QueueSize: 1})
		defer c.Close()
		backend.SetFault(refuse)
		if err := aside.Invalidate(t.Context(), c, room, aside.ChatMessages("B")); err != nil {
			t.Fatal(err)
		}
		backend.SetFault(func(ctx context.Context, method string) error {
			if method != "Clear" {
				return nil
			}
			select {
			case <-time.After(5 * time.Minute):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		trustedWithin(t, c, 30*time.Minute)
	})
}
