package aside_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

// processes are Caches over one Redis, each at the end of a line of its own.
type processes struct {
	server *miniredis.Miniredis
	caches []aside.Cache
	lines  []*line
}

// apart runs test in a bubble with n processes.
func apart(t *testing.T, n int, test func(t *testing.T, p processes)) {
	synctest.Test(t, func(t *testing.T) {
		p := processes{server: miniredis.NewMiniRedis()}
		p.server.ClockTTL(true)
		defer p.server.Close()
		for range n {
			l := &line{}
			c, end := l.connect(t, p.server, aside.Config{Logger: slog.New(slog.DiscardHandler)})
			defer end()
			p.caches, p.lines = append(p.caches, c), append(p.lines, l)
		}
		test(t, p)
	})
}

// contend lets the first process load a key for so long, and the second wait for
// it. It returns how long after the load's end the second had the value, of which
// three milliseconds are those of the fill's way and of a question's.
func (p processes) contend(t *testing.T, key aside.Key, takes time.Duration) (late time.Duration) {
	t.Helper()
	p.lines[1].take()
	return contend(t, p.caches[0], p.caches[1], key, takes)
}

func contend(t *testing.T, one, two aside.Cache, key aside.Key, takes time.Duration) (late time.Duration) {
	t.Helper()
	started, loaded := make(chan struct{}), make(chan time.Time, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		v, err := aside.GetOrLoad(t.Context(), one, key, func(context.Context) (string, error) {
			close(started) // it has the lease
			time.Sleep(takes)
			loaded <- time.Now()
			return "v", nil
		})
		if v != "v" || err != nil {
			t.Errorf("who loads got %q, %v", v, err)
		}
	})
	<-started
	began := time.Now()
	v, err := aside.GetOrLoad(t.Context(), two, key, func(context.Context) (string, error) {
		if time.Since(began) < takes+time.Second { // else this process, or Redis, stood still, and the lease has lapsed
			t.Error("the loader was called for what should be a hit")
		}
		return "v", nil
	})
	if v != "v" || err != nil {
		t.Errorf("who waits got %q, %v", v, err)
	}
	late = time.Since(<-loaded)
	wg.Wait()
	return late
}

const (
	channel  = "aside:wake"
	heardMax = 250 * time.Millisecond
)

// A load of 50 ms costs a waiter a handful of commands, and the waiter has the value
// as soon as Redis can have told it.
func TestWake_WhoWaitsIsToldOfTheValue(t *testing.T) {
	t.Parallel()
	apart(t, 2, func(t *testing.T, p processes) {
		for i, takes := range []time.Duration{50, 51, 53, 47, 120, 1500} {
			late := p.contend(t, items.Key(fmt.Sprint("x", i)), takes*time.Millisecond)
			sent := slices.DeleteFunc(p.lines[1].take(), func(text string) bool { return strings.HasPrefix(text, "hello") })
			if late > 5*time.Millisecond { // it may be asking when it is told
				t.Errorf("load %d: %v late", i, late)
			}
			if takes < 60 && len(sent) > 7 || len(sent) > 15 {
				t.Errorf("load %d of %dms: who waits sent %d commands: %.80q", i, takes, len(sent), sent)
			}
		}
	})
}

// A read that nobody waits for neither listens nor tells.
func TestWake_WhatIsNotWaitedForCostsNothing(t *testing.T) {
	t.Parallel()
	apart(t, 1, func(t *testing.T, p processes) {
		v, err := aside.GetOrLoad(t.Context(), p.caches[0], items.Key("x"), func(context.Context) (string, error) {
			if lease, _ := p.server.Get("{item:x}:lease"); strings.Contains(lease, channel) || !strings.HasPrefix(lease, "load ") {
				t.Errorf("the lease key says %q", lease)
			}
			return "v", nil
		})
		aside.AwaitFills(p.caches[0])
		if sent := p.lines[0].take(); v != "v" || err != nil || len(sent) != 3 {
			t.Errorf("got %q, %v with %.80q", v, err, sent)
		}
		if n := p.server.PubSubNumSub(channel)[channel]; n != 0 {
			t.Errorf("%d subscriptions", n)
		}
	})
}

// ends are the ways in which a lease that is waited for ends.
var ends = map[string]func(ctx context.Context, c aside.Cache, token string) error{
	"Fill": func(ctx context.Context, c aside.Cache, token string) error {
		_, err := backendOf(c).Fill(ctx, "item:x", token, backend.Fill{Value: []byte(`"v"`), TTL: time.Minute})
		return err
	},
	"Fill with not found": func(ctx context.Context, c aside.Cache, token string) error {
		_, err := backendOf(c).Fill(ctx, "item:x", token, backend.Fill{NotFound: true, TTL: time.Minute})
		return err
	},
	"Release": func(ctx context.Context, c aside.Cache, token string) error {
		return backendOf(c).Release(ctx, "item:x", token)
	},
	"Set": func(ctx context.Context, c aside.Cache, _ string) error {
		return c.Set(ctx, "item:x", []byte(`"v"`), time.Minute)
	},
	"Delete": func(ctx context.Context, c aside.Cache, _ string) error { return c.Delete(ctx, "item:x") },
	"Block": func(ctx context.Context, c aside.Cache, _ string) error {
		return backendOf(c).Block(ctx, "writer", time.Minute, "item:y", "item:x")
	},
	"Unblock": func(ctx context.Context, c aside.Cache, _ string) error {
		return backendOf(c).Unblock(ctx, "writer", "item:y", "item:x")
	},
	"Clear": func(ctx context.Context, c aside.Cache, _ string) error { return c.Clear(ctx, "item:") },
	"a claim": func(ctx context.Context, c aside.Cache, _ string) error {
		_, err := backendOf(c).Lease(ctx, "item:x", backend.LeaseRequest{TTL: time.Minute, Claim: []byte(`"v"`), Owner: "owner"})
		return err
	},
}

// Every way to end a lease wakes its waiters, and leaves no sign of them.
func TestWake_WhateverEndsALease(t *testing.T) {
	t.Parallel()
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			apart(t, 3, func(t *testing.T, p processes) {
				token, knew := p.held(t)
				if lease, _ := p.server.Get("{item:x}:lease"); !strings.HasSuffix(lease, " "+channel) {
					t.Errorf("the lease key says %q of a lease that is waited for, without the channel %s", lease, channel)
				}
				if err := end(t.Context(), p.caches[2], token); err != nil {
					t.Fatal(err)
				}
				ended := time.Now()
				if late := (<-knew).Sub(ended); late > 3*time.Millisecond { // a question, and perhaps a fill
					t.Errorf("it knew of it after %v", late)
				}
				if lease, _ := p.server.Get("{item:x}:lease"); strings.Contains(lease, channel) {
					t.Errorf("afterwards the lease key says %q", lease)
				}
			})
		})
	}
}

// A process that dies while it loads is replaced in time, by one: the others are
// told that they wait for another load now.
func TestWake_AHolderThatDiesIsReplacedByOne(t *testing.T) {
	t.Parallel()
	apart(t, 4, func(t *testing.T, p processes) {
		p.contend(t, items.Key("warm"), 50*time.Millisecond)
		must(backendOf(p.caches[0]).Lease(t.Context(), "item:x", backend.LeaseRequest{TTL: 2 * time.Second})) // as a process that dies now
		start := time.Now()
		var loads counter
		var wg sync.WaitGroup
		var first, last time.Duration
		var mu sync.Mutex
		for i, c := range p.caches[1:] {
			wg.Go(func() {
				time.Sleep(time.Duration(i*37) * time.Millisecond) // they ask at different times
				if v, err := aside.GetOrLoad(t.Context(), c, items.Key("x"), loads.load("v")); v != "v" || err != nil {
					t.Errorf("got %q, %v", v, err)
				}
				mu.Lock()
				defer mu.Unlock()
				took := time.Since(start)
				first, last = min(cmp.Or(first, took), took), max(last, took)
			})
		}
		wg.Wait()
		if loads.Load() != 1 || last > 2500*time.Millisecond {
			t.Errorf("%d loads, the last had it after %v", loads.Load(), last)
		}
		if last-first > 5*time.Millisecond {
			t.Errorf("the first had it after %v, the last after %v", first, last)
		}
	})
}

// held is a lease of the first process that the second waits for, with a live
// subscription, and for so long that it asks every quarter of a second.
func (p processes) held(t *testing.T) (token string, knew <-chan time.Time) {
	t.Helper()
	p.contend(t, items.Key("warm"), 50*time.Millisecond)
	l := must(backendOf(p.caches[0]).Lease(t.Context(), "item:x", backend.LeaseRequest{TTL: time.Minute}))
	got := make(chan time.Time, 1)
	go func() {
		v, err := aside.GetOrLoad(t.Context(), p.caches[1], items.Key("x"), func(context.Context) (string, error) { return "v", nil })
		if v != "v" && !errors.Is(err, aside.ErrNotFound) {
			t.Errorf("who waits got %q, %v", v, err)
		}
		got <- time.Now()
	}()
	time.Sleep(3 * time.Second)
	return l.Token, got
}

// commands counts what a process sends while d passes.
func (p processes) commands(i int, d time.Duration) int {
	p.lines[i].take()
	time.Sleep(d)
	return len(p.lines[i].take())
}

// A subscription that breaks is not relied on any more at once, and is made anew.
func TestWake_ASubscriptionThatBreaks(t *testing.T) {
	t.Parallel()
	apart(t, 2, func(t *testing.T, p processes) {
		token, knew := p.held(t)
		if n := p.commands(1, time.Second); n > 5 {
			t.Errorf("who waits sent %d commands in a second", n)
		}
		p.lines[1].setDials(func(ctx context.Context) { // a connection takes its time
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		})
		p.lines[1].cut()
		if n := p.commands(1, 500*time.Millisecond); n < 20 {
			t.Errorf("without a subscription it sent %d commands in half a second", n)
		}
		time.Sleep(2 * time.Second)
		if n := p.commands(1, time.Second); n > 5 {
			t.Errorf("with another one it sent %d commands in a second", n)
		}
		ended := time.Now()
		must(backendOf(p.caches[0]).Fill(t.Context(), "item:x", token, backend.Fill{Value: []byte(`"v"`), TTL: time.Minute}))
		if late := (<-knew).Sub(ended); late > 4*time.Millisecond {
			t.Errorf("it had the value after %v", late)
		}
	})
}

// A subscription that brings nothing any more is found out, and costs little until
// then.
func TestWake_ASubscriptionThatGoesDeaf(t *testing.T) {
	t.Parallel()
	for after, limit := range map[time.Duration]time.Duration{0: 250 * time.Millisecond, 3 * time.Second: 10 * time.Millisecond} {
		apart(t, 2, func(t *testing.T, p processes) {
			token, knew := p.held(t)
			p.lines[1].setDeaf(true)
			time.Sleep(after)
			ended := time.Now()
			must(backendOf(p.caches[0]).Fill(t.Context(), "item:x", token, backend.Fill{Value: []byte(`"v"`), TTL: time.Minute}))
			if late := (<-knew).Sub(ended); late > limit+4*time.Millisecond {
				t.Errorf("deaf for %v, it had the value after %v", after, late)
			}
			p.lines[1].setDeaf(false)
			time.Sleep(3 * time.Second)
			p.contend(t, items.Key("again"), 50*time.Millisecond)
			if late := p.contend(t, items.Key("at last"), 500*time.Millisecond); late > 5*time.Millisecond {
				t.Errorf("not deaf any more, it had a value after %v", late)
			}
		})
	}
}

// A Redis that hangs costs a waiter no more than it costs others, once it asks.
func TestWake_ARedisThatHangs(t *testing.T) {
	t.Parallel()
	apart(t, 2, func(t *testing.T, p processes) {
		_, knew := p.held(t)
		p.lines[1].hang(true)
		hung := time.Now()
		start := time.Now()
		v, err := aside.GetOrLoad(t.Context(), p.caches[1], items.Key("y"), func(context.Context) (string, error) { return "v", nil })
		if d := time.Since(start); v != "v" || err != nil || d > 250*time.Millisecond {
			t.Errorf("who comes got %q, %v after %v", v, err, d)
		}
		if d := (<-knew).Sub(hung); d > heardMax+250*time.Millisecond {
			t.Errorf("who waits loaded after %v", d)
		}
	})
}

// Ends that are not told of, as those who end the leases do not have the right to,
// are polled for after a few, until one is told of.
func TestWake_EndsThatAreNotToldOf(t *testing.T) {
	t.Parallel()
	apart(t, 2, func(t *testing.T, p processes) {
		p.contend(t, items.Key("warm"), 50*time.Millisecond)
		p.lines[0].arrives = func(string) { // forgets who waits
			const key = "{item:x}:lease"
			if lease, _ := p.server.Get(key); strings.HasSuffix(lease, " "+channel) {
				left := p.server.TTL(key)
				_ = p.server.Set(key, strings.TrimSuffix(lease, " "+channel))
				p.server.SetTTL(key, left)
			}
		}
		for i := range 6 {
			if late := p.contend(t, items.Key("x"), 900*time.Millisecond); i >= 3 && late > 14*time.Millisecond {
				t.Errorf("end %d was not told of, and found after %v", i, late)
			}
			p.server.Del("item:x")
		}
		p.lines[0].arrives = nil
		p.contend(t, items.Key("x"), 900*time.Millisecond)
		go p.contend(t, items.Key("y"), 3*time.Second)
		time.Sleep(2 * time.Second)
		if n := p.commands(1, time.Second); n > 5 {
			t.Errorf("when ends are told of again, who waits sends %d commands in a second", n)
		}
		time.Sleep(time.Second)
	})
}

// A message is a hint: one that is wrong changes nothing.
func TestWake_WrongMessages(t *testing.T) {
	t.Parallel()
	apart(t, 2, func(t *testing.T, p processes) {
		p.contend(t, items.Key("warm"), 50*time.Millisecond)
		go func() {
			for i := range 300 {
				for _, text := range []string{"item:x", "item:y", "", "{item:x}:lease", strings.Repeat("x", 100_000)} {
					p.server.Publish(channel, text)
				}
				time.Sleep(time.Duration(i) * 10 * time.Microsecond)
			}
		}()
		if late := p.contend(t, items.Key("x"), 200*time.Millisecond); late > 5*time.Millisecond {
			t.Errorf("who waits had the value after %v", late)
		}
		time.Sleep(time.Second)
	})
}

// The subscription ends a minute after it was of use, and with the Cache.
func TestWake_TheSubscriptionEnds(t *testing.T) {
	t.Parallel()
	apart(t, 2, func(t *testing.T, p processes) {
		subscribed := func() int { return p.server.PubSubNumSub(channel)[channel] }
		p.contend(t, items.Key("x"), 50*time.Millisecond)
		time.Sleep(50 * time.Second)
		p.contend(t, items.Key("y"), 50*time.Millisecond)
		time.Sleep(50 * time.Second)
		if n := subscribed(); n != 1 {
			t.Errorf("%d subscriptions, want that of who waited", n)
		}
		time.Sleep(12 * time.Second)
		if n := subscribed(); n != 0 {
			t.Errorf("%d subscriptions when nobody has waited for a minute", n)
		}
		for i, takes := range []time.Duration{50, 500} {
			if late := p.contend(t, items.Key(fmt.Sprint("z", i)), takes*time.Millisecond); late > 5*time.Millisecond {
				t.Errorf("after that, who waits has the value after %v", late)
			}
		}
		if err := p.caches[1].Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := subscribed(); n != 0 {
			t.Errorf("%d subscriptions after Close", n)
		}
	})
}

// A client that hangs when it connects keeps nobody waiting, Close neither.
func TestWake_AClientThatCanNotConnect(t *testing.T) {
	t.Parallel()
	apart(t, 2, func(t *testing.T, p processes) {
		p.lines[1].setDials(func(context.Context) { time.Sleep(time.Hour) }) // in spite of the context
		for i := range 5 {
			if late := p.contend(t, items.Key(fmt.Sprint(i)), 700*time.Millisecond); late > 15*time.Millisecond {
				t.Errorf("load %d: who waits had the value after %v", i, late)
			}
		}
		start := time.Now()
		if err := p.caches[1].Close(); err != nil || time.Since(start) > 0 {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		time.Sleep(2 * time.Hour) // it gives up
	})
}

// Two Caches over a real Redis.
func TestWake_Redis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one, two := overRedis(t, r.Addr, aside.Config{}), overRedis(t, r.Addr, aside.Config{})
	calls := func() int {
		stats := r.Client().Info(t.Context(), "commandstats").Val()
		var n int
		for _, name := range []string{"evalsha", "eval", "subscribe"} {
			_, rest, _ := strings.Cut(stats, "cmdstat_"+name+":calls=")
			text, _, _ := strings.Cut(rest, ",")
			i, _ := strconv.Atoi(text)
			n += i
		}
		return n
	}
	tries := 0
	loads := func(name string) {
		// A subscription that was silent, as this process or Redis stood still, is made anew.
		redistest.Eventually(t, name+": who waits is told, and asks seldom", func() bool {
			tries++
			var late []time.Duration
			var sent []int
			for i := range 7 {
				before := calls()
				late = append(late, contend(t, one, two, items.Key(fmt.Sprint(name, tries, "-", i)), 250*time.Millisecond))
				sent = append(sent, calls()-before)
			}
			slices.Sort(late)
			slices.Sort(sent)
			t.Logf("late by %v; commands of both: %v", late, sent)
			// The process that loads sends two. A waiter that polls sends thirty or more.
			return sent[5] <= 14
		})
	}
	loads("a")
	if err := r.Client().ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, "there is another subscription", func() bool {
		contend(t, one, two, items.Key(fmt.Sprint("b", time.Now())), 50*time.Millisecond)
		return r.Client().PubSubNumSub(t.Context(), channel).Val()[channel] == 1
	})
	loads("c")
}

// userOf returns a Cache of a user with rights to all but channels, and its log.
func userOf(t *testing.T, r *redistest.Server) (aside.Cache, *logtest.Buffer) {
	t.Helper()
	r.SetUser("app", "on", ">pw", "~*", "+@all", "resetchannels")
	log := new(logtest.Buffer)
	return open(t, aside.Config{Timeout: 20 * time.Second, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Redis: aside.Redis{Hosts: []string{r.Addr}, Username: "app", Password: "pw"}}), log
}

// A user who may not subscribe polls; one line in the log says so, and it does not
// try again soon.
func TestWake_AUserWhoMayNotSubscribe(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	two, log := userOf(t, r)
	one := overRedis(t, r.Addr, aside.Config{})
	connections := func() int {
		_, rest, _ := strings.Cut(r.Client().Info(t.Context(), "stats").Val(), "total_connections_received:")
		n, _ := strconv.Atoi(strings.Fields(rest)[0])
		return n
	}
	contend(t, one, two, items.Key("first"), 50*time.Millisecond)
	before := connections()
	for i := range 10 {
		late := contend(t, one, two, items.Key(fmt.Sprint(i)), 50*time.Millisecond)
		t.Logf("load %d: who waits had the value after %v", i, late)
	}
	if n := connections() - before; n > 6 {
		t.Errorf("%d connections were made", n)
	}
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "NOPERM") {
		t.Errorf("the log has %q", text)
	}
}

// A user who may not publish fills and invalidates all the same, and those who wait
// find out.
func TestWake_AUserWhoMayNotPublish(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one, log := userOf(t, r)
	two := overRedis(t, r.Addr, aside.Config{})
	for i := range 5 {
		contend(t, one, two, items.Key(fmt.Sprint(i)), 50*time.Millisecond)
	}
	for _, write := range writes {
		write(t, two)
		l := must(backendOf(two).Lease(t.Context(), room.String(), backend.LeaseRequest{TTL: time.Minute}))
		done := make(chan struct{})
		go func() {
			defer close(done)
			read(t, two, func(context.Context) (string, error) { return "v", nil })
		}()
		redistest.Eventually(t, "the lease is waited for", func() bool {
			return strings.HasSuffix(r.Client().Get(t.Context(), "{"+room.String()+"}:lease").Val(), " "+channel)
		})
		write(t, one)
		if aside.Pending(one, room) {
			t.Error("an invalidation is pending")
		}
		<-done
		if stored := must(backendOf(two).Fill(t.Context(), room.String(), l.Token, backend.Fill{Value: []byte("1"), TTL: time.Minute})); stored {
			t.Error("the lease has not ended")
		}
	}
	if s := must(one.Status(t.Context())); s.Breaker != "closed" || s.Stats.Degraded > 0 || s.Stats.StaleFills > 0 {
		t.Errorf("%+v", s)
	}
	if text := log.String(); text != "" {
		t.Errorf("the log has %q", text)
	}
}

// A waiter that asks while the subscription comes up asks once more.
func TestWake_WhoAskedBeforeTheSubscription(t *testing.T) {
	t.Parallel()
	apart(t, 2, func(t *testing.T, p processes) {
		x := must(backendOf(p.caches[0]).Lease(t.Context(), "item:x", backend.LeaseRequest{TTL: time.Minute}))
		y := must(backendOf(p.caches[0]).Lease(t.Context(), "item:y", backend.LeaseRequest{TTL: time.Minute}))
		fill := backend.Fill{Value: []byte(`"v"`), TTL: time.Minute}
		var wg sync.WaitGroup
		wg.Go(func() { ask(t, p.caches[1], items.Key("x")) }) // subscribes when it knows the lease, 4 ms from now, and has it 2 ms later
		time.Sleep(3 * time.Millisecond)
		wg.Go(func() {
			start := time.Now() // asks meanwhile
			ask(t, p.caches[1], items.Key("y"))
			if d := time.Since(start); d > 10*time.Millisecond {
				t.Errorf("it had the value after %v", d)
			}
		})
		time.Sleep(6*time.Millisecond + 500*time.Microsecond)
		if lease, _ := p.server.Get("{item:y}:lease"); !strings.HasSuffix(lease, " "+channel) {
			t.Errorf("the lease key says %q", lease)
		}
		must(backendOf(p.caches[0]).Fill(t.Context(), "item:y", y.Token, fill))
		must(backendOf(p.caches[0]).Fill(t.Context(), "item:x", x.Token, fill))
		wg.Wait()
	})
}

// An invalidation in this process ends the waiting of those who came before, also
// when Redis does not take it.
func TestWake_AWriteInTheProcessThatWaits(t *testing.T) {
	t.Parallel()
	apart(t, 2, func(t *testing.T, p processes) {
		_, knew := p.held(t)
		p.lines[1].hang(true)
		start := time.Now()
		if err := aside.Invalidate(t.Context(), p.caches[1], items.Key("x")); err != nil {
			t.Error(err)
		}
		if d := (<-knew).Sub(start); d > time.Millisecond {
			t.Errorf("who waits loaded after %v", d)
		}
		p.lines[1].hang(false)
		time.Sleep(time.Second)
	})
}
