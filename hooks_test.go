package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/redistest"
)

// told has the events that hooks were told of, in order.
type told struct {
	mu   sync.Mutex
	list []string
}

func (t *told) add(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, fmt.Sprintf(format, args...))
}

func (t *told) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.list)
}

type spanKey struct{}

// hooks are told of everything but hits. The context of each load has a span: the value
// that its hook put there.
func (t *told) hooks() []hook.Hooks {
	return []hook.Hooks{{
		Read: func(_ context.Context, r hook.Read) {
			var span any
			if r.Load != nil {
				span = r.Load.Value(spanKey{})
			}
			t.add("read %s %s %v of %v", r.Keyspace, r.Outcome, r.Err, span)
		},
		Load: func(ctx context.Context, l hook.Load) (context.Context, func(hook.LoadEnd)) {
			t.add("load %s %s %d", l.Keyspace, l.Reason, l.Keys)
			return context.WithValue(ctx, spanKey{}, l.Reason), func(e hook.LoadEnd) { t.add("loaded %v, not found %v", e.Err, errors.Is(e.Err, aside.ErrNotFound)) }
		},
		Write: func(_ context.Context, w hook.Write) {
			t.add("write %s update %v, %d keys, %d queued, %v", w.Keyspace, w.Update, w.Keys, w.Pending, w.Err)
		},
		State: func(s hook.State) { t.add("state %s begins %v", s.Trouble, s.Begins) },
	}}
}

// A loader gets the context that hooks make, and the read that takes its result is told of
// with it. A hit tells nobody.
func TestHooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told told
		c := open(t, aside.Config{Type: "memory", Hooks: told.hooks()})
		s := aside.Keyspace{Name: "s", TTL: time.Hour, RefreshAfter: 30 * time.Minute}
		load := func(ctx context.Context) (string, error) {
			told.add("in %v", ctx.Value(spanKey{}))
			aside.KeepFor(ctx, 50*time.Minute)
			return "v", nil
		}
		must(aside.GetOrLoad(t.Context(), c, s.Key("A"), load))
		must(aside.GetOrLoad(t.Context(), c, s.Key("A"), load))
		must(aside.GetOrLoad(aside.Fresh(t.Context()), c, s.Key("A"), load))
		time.Sleep(40 * time.Minute)
		must(aside.GetOrLoad(t.Context(), c, s.Key("A"), load))
		synctest.Wait()
		time.Sleep(49 * time.Minute)
		if _, _, ok, _ := aside.Peek[string](t.Context(), c, s.Key("A")); !ok {
			t.Error("the refresh was not stored")
		}
		time.Sleep(2 * time.Minute)
		if _, err := aside.GetOrLoad(t.Context(), c, s.Key("A"), func(context.Context) (string, error) { return "", aside.ErrNotFound }); !errors.Is(err, aside.ErrNotFound) {
			t.Error(err)
		}
		must(aside.GetOrLoadMany(t.Context(), c, []string{"1", "2"}, s.Key, func(ctx context.Context, _ []string) (map[string]string, error) {
			told.add("in %v", ctx.Value(spanKey{}))
			return map[string]string{"1": "v", "2": "v"}, nil
		}))
		_, err := aside.GetOrLoadMany(t.Context(), c, []string{"3"}, s.Key, func(context.Context, []string) (map[string]string, error) { return nil, aside.ErrNotFound })
		told.add("is not found: %v", errors.Is(err, aside.ErrNotFound))
		if err := aside.Invalidate(t.Context(), c, s.Key("A"), s.Key("B")); err != nil {
			t.Error(err)
		}
		failed := errors.New("failed")
		if err := aside.Update(t.Context(), c, func(context.Context) error { return failed }, s.Key("A")); err != failed {
			t.Error(err)
		}
		want := []string{
			"load s miss 1", "in miss", "loaded <nil>, not found false", "read s miss <nil> of miss",
			"load s fresh 1", "in fresh", "loaded <nil>, not found false", "read s miss <nil> of fresh",
			"read s stale <nil> of <nil>", "load s refresh 1", "in refresh", "loaded <nil>, not found false",
			"load s miss 1", "loaded aside: not found, not found true", "read s miss aside: not found of miss",
			"load s miss 2", "in miss", "loaded <nil>, not found false", "read s miss <nil> of miss", "read s miss <nil> of miss",
			"load s miss 1", "loaded aside: not found, not found false", "read s miss aside: not found of miss", "is not found: false",
			"write s update false, 2 keys, 0 queued, <nil>",
			"write s update true, 1 keys, 0 queued, failed",
		}
		got := told.all()
		if len(got) == len(want) { // the refresh runs beside the read
			slices.Sort(got[8:12])
			slices.Sort(want[8:12])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// Hooks are told of the names that Status counts.
func TestHooks_NamesAreBounded(t *testing.T) {
	t.Parallel()
	var told told
	c := open(t, aside.Config{Type: "memory", Hooks: told.hooks()})
	names := make(map[string]bool)
	for i := range 300 {
		key := aside.Keyspace{Name: fmt.Sprint("s", i)}.Key("A")
		must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return "v", nil }))
		must(aside.GetOrLoadMany(t.Context(), c, []string{"B"}, aside.Keyspace{Name: fmt.Sprint("s", i)}.Key, func(context.Context, []string) (map[string]string, error) { return nil, nil }))
		if err := aside.Invalidate(t.Context(), c, key); err != nil {
			t.Error(err)
		}
	}
	for _, event := range told.all() {
		if kind, rest, _ := strings.Cut(event, " "); kind != "loaded" {
			name, _, _ := strings.Cut(rest, " ")
			names[name] = true
		}
	}
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if counted := slices.Sorted(maps.Keys(s.Keyspaces)); len(counted) != 257 || !slices.Equal(counted, slices.Sorted(maps.Keys(names))) {
		t.Errorf("hooks are told of %d names, Status of %d", len(names), len(counted))
	}
}

// A read whose loader panics, and one that leaves while it waits for a refresh, are misses.
// A reader that waits for its own refresh takes nobody else's result.
func TestHooks_EveryReadIsCounted(t *testing.T) {
	t.Parallel()
	s := aside.Keyspace{Name: "s", TTL: time.Hour, RefreshAfter: time.Minute, RefreshWait: 10 * time.Second}
	one := func(ctx context.Context, c aside.Cache, load func(context.Context) (string, error)) (string, error) {
		return aside.GetOrLoad(ctx, c, s.Key("A"), load)
	}
	many := func(ctx context.Context, c aside.Cache, load func(context.Context) (string, error)) (string, error) {
		got, err := aside.GetOrLoadMany(ctx, c, []string{"A"}, s.Key, func(ctx context.Context, _ []string) (map[string]string, error) {
			v, err := load(ctx)
			return map[string]string{"A": v}, err
		})
		return got["A"], err
	}
	for name, read := range map[string]func(context.Context, aside.Cache, func(context.Context) (string, error)) (string, error){"GetOrLoad": one, "GetOrLoadMany": many} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				reads := 0
				c := open(t, aside.Config{Type: "memory", Hooks: []hook.Hooks{{Hits: true, Read: func(context.Context, hook.Read) { reads++ }}}})
				must(read(t.Context(), c, func(context.Context) (string, error) { return "v", nil }))
				time.Sleep(2 * time.Minute)
				must(read(t.Context(), c, func(context.Context) (string, error) { return "w", nil }))
				if st := asideStats(t, c); st.Coalesced != 0 {
					t.Errorf("a reader that waits for its own refresh: %+v", st)
				}
				time.Sleep(2 * time.Minute)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := read(ctx, c, func(context.Context) (string, error) { time.Sleep(5 * time.Second); return "x", nil }); err != context.DeadlineExceeded {
					t.Errorf("got %v", err)
				}
				time.Sleep(5 * time.Second)
				func() {
					defer func() {
						if recover() == nil {
							t.Error("no panic")
						}
					}()
					_ = aside.Invalidate(t.Context(), c, s.Key("A"))
					_, _ = read(t.Context(), c, func(context.Context) (string, error) { panic("the loader's") })
				}()
				if st := asideStats(t, c); st.Hits+st.Misses != 4 || reads != 4 {
					t.Errorf("%d hits, %d misses, %d hooks of 4 reads", st.Hits, st.Misses, reads)
				}
			})
		})
	}
}

// A hook that ends its goroutine, as t.FailNow does in the hook of a test, changes no result,
// and keeps no other from being told.
func TestHooks_ThatEndTheirGoroutine(t *testing.T) {
	t.Parallel()
	ends := func(context.Context, hook.Load) (context.Context, func(hook.LoadEnd)) {
		return nil, func(hook.LoadEnd) { runtime.Goexit() }
	}
	exits := func(context.Context, hook.Load) (context.Context, func(hook.LoadEnd)) {
		runtime.Goexit()
		return nil, nil
	}
	load := func(context.Context, []string) (map[string]string, error) { return map[string]string{"1": "v"}, nil }

	var told told
	c := open(t, aside.Config{Type: "memory", Hooks: append(told.hooks(), hook.Hooks{Load: ends})})
	got, err := aside.GetOrLoadMany(t.Context(), c, []string{"1", "gone"}, aside.ChatMessages, load)
	if diff := cmp.Diff(map[string]string{"1": "v"}, got); diff != "" || err != nil {
		t.Errorf("a list got %v, %v", got, err)
	}
	if got := read(t, c, func(context.Context) (string, error) { return "v", nil }); got != "v" {
		t.Errorf("got %q", got)
	}
	if events := told.all(); !slices.Contains(events, "loaded <nil>, not found false") {
		t.Errorf("the Hooks before them are told %q", events)
	}

	told.list = nil
	c = open(t, aside.Config{Type: "memory", Hooks: append(told.hooks(), hook.Hooks{Load: exits})})
	if _, err := aside.GetOrLoadMany(t.Context(), c, []string{"1"}, aside.ChatMessages, load); err == nil {
		t.Error("a load that did not begin has no error")
	}
	if events := told.all(); !slices.Contains(events, "loaded aside: a hook exited the load's goroutine, not found false") {
		t.Errorf("the Hooks before them are told %q", events)
	}

	told.list = nil
	c, store := faulty(t, aside.Config{Hooks: append([]hook.Hooks{{State: func(hook.State) { runtime.Goexit() }}}, told.hooks()...)})
	store.SetFault(refuse)
	if err := aside.Invalidate(t.Context(), c, room); err != nil {
		t.Error(err)
	}
	store.SetFault(nil)
	redistest.Eventually(t, "the queue's end is told", func() bool { return slices.Contains(told.all(), "state queue begins false") })
}

// At Close no trouble begins, and the queue that it delivers ends.
func TestHooks_AtClose(t *testing.T) {
	t.Parallel()
	var told told
	c, store := faulty(t, aside.Config{Hooks: told.hooks()})
	store.SetFault(refuse)
	if err := aside.Invalidate(t.Context(), c, room); err != nil {
		t.Error(err)
	}
	store.SetFault(func(_ context.Context, method string) error {
		if method == "Get" { // the breaker stays open until Close
			return errDown
		}
		return nil
	})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	redistest.Eventually(t, "the queue's end is told", func() bool { return slices.Contains(told.all(), "state queue begins false") })

	told.list = nil
	c = overRedis(t, redistest.Start(t).Addr, aside.Config{NearMaxBytes: 1 << 20, Hooks: told.hooks()})
	redistest.Eventually(t, "the near cache is used", func() bool {
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		return asideStats(t, c).NearHits > 0
	})
	c.Close()
	time.Sleep(50 * time.Millisecond) // State hooks run in a goroutine that Close does not wait for
	if events := told.all(); slices.Contains(events, "state near begins true") {
		t.Errorf("told %q", events)
	}
}

// A caller that joins a load is reported with the context of that load.
func TestHooks_OfWhoJoins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told told
		c := open(t, aside.Config{Type: "memory", Hooks: told.hooks()})
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() {
				must(aside.GetOrLoad(t.Context(), c, room, func(context.Context) (string, error) { time.Sleep(time.Second); return "v", nil }))
			})
		}
		group.Wait()
		want := []string{"load chat_messages miss 1", "loaded <nil>, not found false", "read chat_messages miss <nil> of miss", "read chat_messages miss <nil> of miss"}
		if diff := cmp.Diff(want, told.all()); diff != "" {
			t.Error(diff)
		}
	})
}

// Trouble is told of when it begins and when it ends, and writes say how many of their keys
// wait for it to end.
func TestHooks_OfTrouble(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	var told told
	c := overRedis(t, r.Addr, aside.Config{Timeout: 100 * time.Millisecond, NearMaxBytes: 1 << 20, Hooks: told.hooks()})
	for i := 0; stats(t, c).NearHits == 0; i++ { // once Redis tells of changes
		get(t, c, aside.Keyspace{Name: "chat_messages"}, loaded("v"), "v")
	}
	r.Pause()
	for !slices.Contains(told.all(), "state answer begins true") {
		must(aside.GetOrLoad(t.Context(), c, aside.ChatMessages(fmt.Sprint(time.Now())), loaded("v")))
	}
	if err := aside.Invalidate(t.Context(), c, room); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"write chat_messages update false, 1 keys, 1 queued, <nil>", "state queue begins true", "state near begins true"} {
		redistest.Eventually(t, want, func() bool { return slices.Contains(told.all(), want) })
	}
	r.Resume()
	for _, want := range []string{"state answer begins false", "state queue begins false", "state near begins false"} {
		redistest.Eventually(t, want, func() bool { return slices.Contains(told.all(), want) })
	}
}

// A hook that panics changes nothing, and is logged once. One that exits ends a load, and
// stores nothing.
func TestHooks_ThatPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		c := open(t, aside.Config{
			Type: "memory", Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Hooks: []hook.Hooks{{
				Hits: true,
				Read: func(context.Context, hook.Read) { panic("a hook of reads") },
				Load: func(context.Context, hook.Load) (context.Context, func(hook.LoadEnd)) {
					return nil, func(hook.LoadEnd) { panic("a hook of ends") }
				},
				Write: func(context.Context, hook.Write) { panic("a hook of writes") },
			}, {
				Load: func(context.Context, hook.Load) (context.Context, func(hook.LoadEnd)) { panic("a hook of loads") },
			}},
		})
		for range 2 {
			if v, err := aside.GetOrLoad(t.Context(), c, room, loaded("v")); v != "v" || err != nil {
				t.Errorf("got %q, %v", v, err)
			}
		}
		if err := aside.Invalidate(t.Context(), c, room); err != nil {
			t.Error(err)
		}
		if s := stats(t, c); s.Hits != 1 || s.Misses != 1 {
			t.Errorf("%+v, want a hit and a miss", s)
		}
		for _, place := range []string{"index=0", "index=1"} {
			if n := strings.Count(log.String(), place); n != 1 {
				t.Errorf("the Hooks at %s are logged %d times, want once:\n%s", place, n, &log)
			}
		}
	})
}

func TestHooks_ThatExit(t *testing.T) {
	t.Parallel()
	for _, many := range []bool{false, true} {
		c := open(t, aside.Config{Type: "memory", Hooks: []hook.Hooks{{
			Load: func(context.Context, hook.Load) (context.Context, func(hook.LoadEnd)) {
				runtime.Goexit()
				return nil, nil
			},
		}}})
		var err error
		if many {
			_, err = aside.GetOrLoadMany(t.Context(), c, []string{"A"}, aside.ChatMessages, func(context.Context, []string) (map[string]string, error) {
				return map[string]string{"A": "v"}, nil
			})
		} else {
			_, err = aside.GetOrLoad(t.Context(), c, room, loaded("v"))
		}
		if err == nil {
			t.Errorf("many %v: no error", many)
		}
		if _, ok, err := c.Get(t.Context(), room.String()); ok || err != nil {
			t.Errorf("many %v: stored %v, %v", many, ok, err)
		}
	}
}

// A key that another program made is no keyspace's, and names none.
func TestStatus_OfForeignKeys(t *testing.T) {
	t.Parallel()
	c := open(t, aside.Config{Type: "memory"})
	if err := c.Delete(t.Context(), "a-person", "A person:1", "\xff:1", ":1"); err != nil {
		t.Fatal(err)
	}
	want := map[string]aside.Stats{"": {Invalidated: 4}}
	if s := must(c.Status(t.Context())); !maps.Equal(s.Keyspaces, want) {
		t.Errorf("got %v, want %v", s.Keyspaces, want)
	}
}

// A hit of a keyspace that is not counted by itself costs no more than another's.
func TestStatus_CostsOfTheRest(t *testing.T) {
	c := open(t, aside.Config{Type: "memory"})
	var costs []float64
	for i := range 300 {
		key := aside.Keyspace{Name: fmt.Sprint("s", i)}.Key("A")
		must(aside.GetOrLoad(t.Context(), c, key, loaded("v")))
		if i == 0 || i == 299 {
			costs = append(costs, testing.AllocsPerRun(100, func() { must(aside.GetOrLoad(t.Context(), c, key, loaded("v"))) }))
		}
	}
	if costs[0] != costs[1] {
		t.Errorf("allocations of a hit: %v", costs)
	}
}

// Each keyspace is counted by itself, up to 256 of them.
func TestStatus_ByKeyspace(t *testing.T) {
	t.Parallel()
	c := open(t, aside.Config{Type: "memory"})
	for range 2 {
		must(aside.GetOrLoad(t.Context(), c, room, loaded("v")))
	}
	must(aside.GetOrLoad(t.Context(), c, aside.UserChats("u"), loaded("v")))
	if err := aside.Invalidate(t.Context(), c, room, aside.UserChats("u"), aside.UserChats("w")); err != nil {
		t.Fatal(err)
	}
	s := must(c.Status(t.Context()))
	want := map[string]aside.Stats{
		"chat_messages": {Hits: 1, Misses: 1, Loads: 1, Invalidated: 1},
		"user_chats":    {Misses: 1, Loads: 1, Invalidated: 2},
	}
	if diff := cmp.Diff(want, s.Keyspaces); diff != "" {
		t.Error(diff)
	}
	if want := (aside.Stats{Hits: 1, Misses: 2, Loads: 2, Invalidated: 3}); s.Stats != want {
		t.Errorf("in all %+v, want %+v", s.Stats, want)
	}
	for i := range 300 {
		must(aside.GetOrLoad(t.Context(), c, aside.Keyspace{Name: fmt.Sprint("s", i)}.Key("A"), loaded("v")))
	}
	if err := c.Delete(t.Context(), "\xff:not a keyspace"); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), "a person's name"); err != nil {
		t.Fatal(err)
	}
	rest := aside.Stats{Misses: 46, Loads: 46, Invalidated: 2}
	if s := must(c.Status(t.Context())); len(s.Keyspaces) != 257 || s.Stats.Misses != 302 || s.Keyspaces[""] != rest {
		t.Errorf("%d keyspaces, %d misses, the rest %+v, want 257, 302 and %+v", len(s.Keyspaces), s.Stats.Misses, s.Keyspaces[""], rest)
	}
}
