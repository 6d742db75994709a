package aside_test

// How the options of loaders, callers and operators work together. The time is virtual, so
// that an operation that does not wait takes none.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redistest"
)

// twoProcesses are caches over one memory: the first with the Config.
func twoProcesses(t *testing.T, cfg aside.Config) (one, two aside.Cache) {
	memory := open(t, aside.Config{Type: "memory"})
	one, two = must(aside.New(backendOf(memory), cfg)), must(aside.New(backendOf(memory), aside.Config{}))
	t.Cleanup(func() { one.Close() })
	return one, two
}

// loadsSlowly begins a load of the key in c, and returns what ends it.
func loadsSlowly(c aside.Cache, key aside.Key, v string, err error) (end func()) {
	in, out := make(chan struct{}), make(chan struct{})
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		aside.GetOrLoad(context.Background(), c, key, func(context.Context) (string, error) {
			close(in)
			<-out
			return v, err
		})
	}()
	select {
	case <-in:
	case <-returned:
		select {
		case <-in:
		default:
			panic("it did not load " + key.String())
		}
	}
	return func() { close(out) }
}

func loaded(v string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return v, nil }
}

// A refresh that waited for another process's stands in no line: a load with the last place
// may wait for it.
func TestMaxLoads_RefreshThatIsWaitedForWithin(t *testing.T) {
	t.Parallel()
	for _, many := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			one, two := twoProcesses(t, aside.Config{MaxLoads: 1, LoadTimeout: time.Hour})
			s := aged
			s.RefreshWait = -1
			read := func(ctx context.Context) (string, error) {
				if !many {
					return aside.GetOrLoad(ctx, one, s.Key("A"), loaded("mine"))
				}
				got, err := aside.GetOrLoadMany(ctx, one, []string{"A"}, s.Key, func(context.Context, []string) (map[string]string, error) {
					return map[string]string{"A": "mine"}, nil
				})
				return got["A"], err
			}
			get(t, two, s, loaded("old"), "old")
			time.Sleep(time.Minute)
			end := loadsSlowly(two, s.Key("A"), "new", nil)
			var group sync.WaitGroup
			group.Go(func() { _, _ = read(t.Context()) })
			synctest.Wait()
			start := time.Now()
			group.Go(func() {
				if _, err := aside.GetOrLoad(t.Context(), one, room, read); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
			end()
			group.Wait()
			if took := time.Since(start); took > time.Minute {
				t.Errorf("many %v: it took %v", many, took)
			}
		})
	}
}

// A bound is of one cache: a load within a load of another one takes a place.
func TestMaxLoads_WithinAnotherCache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		outer, inner := open(t, aside.Config{Type: "memory"}), open(t, aside.Config{Type: "memory", MaxLoads: 1})
		s := aside.Keyspace{Name: "s"}
		start := time.Now()
		var group sync.WaitGroup
		for i := range 10 {
			key := s.Key(fmt.Sprint(i))
			group.Go(func() {
				if _, err := aside.GetOrLoad(t.Context(), outer, key, func(ctx context.Context) (string, error) {
					return aside.GetOrLoad(ctx, inner, key, func(context.Context) (string, error) { time.Sleep(time.Second); return "v", nil })
				}); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("ten loads, one at a time, took %v, want 10s", took)
		}
	})
}

// While an audit gives a writer time, a reader after that writer's invalidation loads.
func TestAudit_HoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one, two := twoProcesses(t, aside.Config{Audit: 1})
		s := aside.Keyspace{Name: "audited"}
		var row atomic.Value
		row.Store("v1")
		load := func(context.Context) (string, error) { return row.Load().(string), nil }
		get(t, one, s, load, "v1")
		aside.AwaitFills(one)
		row.Store("v2")
		get(t, one, s, load, "v1")
		time.Sleep(time.Millisecond)
		if err := aside.Invalidate(t.Context(), two, s.Key("A")); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		get(t, one, s, load, "v2")
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("a miss took %v", took)
		}
	})
}

// A new value that was there in time is returned, however long the other ids take.
func TestGetOrLoadMany_RefreshThatWasInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory"})
		s := aged
		s.RefreshWait = time.Second
		for i := range 20 {
			old, slow := fmt.Sprint("old", i), fmt.Sprint("slow", i)
			if _, err := aside.GetOrLoad(t.Context(), c, s.Key(old), loaded("old")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			got, err := aside.GetOrLoadMany(t.Context(), c, []string{old, slow}, s.Key, func(_ context.Context, ids []string) (map[string]string, error) {
				if ids[0] == slow {
					time.Sleep(2 * time.Second)
				}
				return map[string]string{ids[0]: "new"}, nil
			})
			if err != nil || got[old] != "new" {
				t.Fatalf("got %v, %v, want the new value", got, err)
			}
		}
	})
}

type exitingCodec struct{}

func (exitingCodec) Encode(v any) ([]byte, error) {
	if v == "bad" {
		runtime.Goexit()
	}
	return json.Marshal(v)
}

func (exitingCodec) Decode(data []byte, ptr any) error { return json.Unmarshal(data, ptr) }

// A Codec that ends the goroutine at one id's value makes no other id not found.
func TestGetOrLoadMany_CodecThatExits(t *testing.T) {
	t.Parallel()
	c := open(t, aside.Config{Type: "memory"})
	s := aside.Keyspace{Name: "exits", Codec: exitingCodec{}, NotFoundTTL: time.Minute}
	got, err := aside.GetOrLoadMany(t.Context(), c, []string{"1", "2"}, s.Key, func(context.Context, []string) (map[string]string, error) {
		return map[string]string{"1": "bad", "2": "good"}, nil
	})
	aside.AwaitFills(c)
	v, errAfter := aside.GetOrLoad(t.Context(), c, s.Key("2"), loaded("good"))
	if got["2"] != "good" || v != "good" || errAfter != nil {
		t.Errorf("got %v, %v, and %q, %v afterwards, want good", got, err, v, errAfter)
	}
}

// The last call of KeepFor counts, and for one call of the loader.
func TestKeepFor_Last(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one, two := twoProcesses(t, aside.Config{})
		s := aside.Keyspace{Name: "kept"}
		if _, err := aside.GetOrLoad(t.Context(), one, s.Key("A"), func(ctx context.Context) (string, error) {
			aside.KeepFor(ctx, time.Minute, s.Key("A"))
			aside.KeepFor(ctx, 0)
			return "v", nil
		}); err != nil {
			t.Fatal(err)
		}
		aside.AwaitFills(one)
		if _, left, ok, _ := aside.Peek[string](t.Context(), one, s.Key("A")); ok {
			t.Errorf("it is kept for %v, want not at all", left)
		}
		end := loadsSlowly(two, s.Key("C"), "", errDown)
		calls := 0
		if _, err := aside.GetOrLoadMany(t.Context(), one, []string{"B", "C"}, s.Key, func(ctx context.Context, ids []string) (map[string]string, error) {
			if calls++; calls == 1 {
				aside.KeepFor(ctx, 0)
				time.AfterFunc(50*time.Millisecond, func() { _ = two.Delete(context.Background(), s.Key("C").String()); end() })
			}
			out := make(map[string]string)
			for _, id := range ids {
				out[id] = "v"
			}
			return out, nil
		}); err != nil {
			t.Fatal(err)
		}
		aside.AwaitFills(one)
		if _, _, ok, err := aside.Peek[string](t.Context(), one, s.Key("C")); calls != 2 || !ok {
			t.Errorf("%d calls; stored %v, %v, want the second call's value stored", calls, ok, err)
		}
	})
}

// holdsThePlace takes the only place of c until the test ends.
func holdsThePlace(t *testing.T, c aside.Cache) {
	end := loadsSlowly(c, aside.Keyspace{Name: "held"}.Key(t.Name()), "held", nil)
	t.Cleanup(end)
}

// soon is a context for what must not wait for another load, which lasts as long as the test.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A value that is stored waits for no place, however it is found: by a read that expected a
// miss, or by one that waited for another process's load.
func TestMaxLoads_StoredValues(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	s := aside.Keyspace{Name: "s"}
	cfg := aside.Config{MaxLoads: 1}
	t.Run("expected to miss", func(t *testing.T) {
		one, two := overRedis(t, r.Addr, cfg), overRedis(t, r.Addr, aside.Config{})
		if err := aside.Invalidate(t.Context(), one, s.Key("A")); err != nil {
			t.Fatal(err)
		}
		get(t, two, s, loaded("v"), "v")
		aside.AwaitFills(two)
		holdsThePlace(t, one)
		if v, err := aside.GetOrLoad(soon(t), one, s.Key("A"), fails(t)); v != "v" || err != nil {
			t.Errorf("got %q, %v, want what is stored", v, err)
		}
	})
	t.Run("waited for", func(t *testing.T) {
		one, two := overRedis(t, r.Addr, cfg), overRedis(t, r.Addr, aside.Config{})
		end := loadsSlowly(two, s.Key("B"), "v", nil)
		var group sync.WaitGroup
		group.Go(func() {
			if v, err := aside.GetOrLoad(soon(t), one, s.Key("B"), fails(t)); v != "v" || err != nil {
				t.Errorf("got %q, %v, want what another process stored", v, err)
			}
		})
		redistest.Eventually(t, "it waits for the other process", func() bool { return stats(t, one).Waited > 0 })
		holdsThePlace(t, one)
		end()
		group.Wait()
	})
}

// A load that has waited for another process's load and has lost its place meanwhile takes
// the stored value while it is in line.
func TestMaxLoads_StoredWhileInLine(t *testing.T) {
	t.Parallel()
	for _, many := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			one, two := twoProcesses(t, aside.Config{MaxLoads: 1})
			s := aside.Keyspace{Name: "s"}
			end := loadsSlowly(two, s.Key("A"), "v", nil)
			var group sync.WaitGroup
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var v string
				var err error
				if many {
					var got map[string]string
					got, err = aside.GetOrLoadMany(ctx, one, []string{"A"}, s.Key, func(context.Context, []string) (map[string]string, error) {
						return nil, errors.New("loaded though it was stored")
					})
					v = got["A"]
				} else {
					v, err = aside.GetOrLoad(ctx, one, s.Key("A"), fails(t))
				}
				if v != "v" || err != nil {
					t.Errorf("many %v: got %q, %v, want what another process stored", many, v, err)
				}
			})
			time.Sleep(time.Second)
			holdsThePlace(t, one)
			time.Sleep(time.Second)
			end()
			group.Wait()
		})
	}
}

// A fresh read in line takes no load that began before it came.
func TestMaxLoads_FreshInLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one, two := twoProcesses(t, aside.Config{MaxLoads: 1})
		s := aside.Keyspace{Name: "s"}
		end := loadsSlowly(two, s.Key("A"), "before", nil)
		var group sync.WaitGroup
		group.Go(func() {
			if v, err := aside.GetOrLoad(aside.Fresh(t.Context()), one, s.Key("A"), loaded("mine")); v != "mine" || err != nil {
				t.Errorf("got %q, %v, want the load that began after it came", v, err)
			}
		})
		time.Sleep(time.Second)
		release := loadsSlowly(one, s.Key("B"), "held", nil)
		time.Sleep(time.Second)
		end()
		time.Sleep(time.Second)
		release()
		group.Wait()
	})
}

// A backend whose code ends the goroutine of a flight that looks for a value leaves no reader
// of its key waiting.
func TestFlightThatABackendEndsAsItLooks(t *testing.T) {
	t.Parallel()
	exits := func(method string, at int) (fault asidetest.Fault, arm func()) {
		var armed atomic.Bool
		var calls atomic.Int64
		return func(_ context.Context, called string) error {
			if called == method && armed.Load() && calls.Add(1) == int64(at) {
				runtime.Goexit()
			}
			return nil
		}, func() { armed.Store(true) }
	}
	t.Run("for an audit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			faulty := &asidetest.Faulty{Backend: asidetest.Memory()}
			c := must(aside.New(faulty, aside.Config{Audit: 1}))
			defer c.Close()
			s := aside.Keyspace{Name: "s"}
			get(t, c, s, loaded("v"), "v")
			fault, arm := exits("Get", 2) // the first is the hit's
			faulty.SetFault(fault)
			arm()
			get(t, c, s, loaded("v"), "v")
			synctest.Wait()
			if err := faulty.Delete(t.Context(), s.Key("A").String()); err != nil {
				t.Fatal(err)
			}
			if v, err := aside.GetOrLoad(soon(t), c, s.Key("A"), loaded("w")); v != "w" || err != nil {
				t.Errorf("got %q, %v", v, err)
			}
		})
	})
	t.Run("in line", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			faulty := &asidetest.Faulty{Backend: asidetest.Memory()}
			one, two := must(aside.New(faulty, aside.Config{MaxLoads: 1})), must(aside.New(faulty, aside.Config{}))
			defer two.Close()
			defer one.Close()
			s := aside.Keyspace{Name: "s"}
			defer loadsSlowly(two, s.Key("A"), "theirs", nil)()
			var group sync.WaitGroup
			group.Go(func() {
				if v, err := aside.GetOrLoad(soon(t), one, s.Key("A"), loaded("mine")); v != "mine" || err != nil {
					t.Errorf("got %q, %v", v, err)
				}
			})
			time.Sleep(time.Second)
			fault, arm := exits("Get", 1)
			faulty.SetFault(fault)
			defer loadsSlowly(one, s.Key("B"), "held", nil)()
			arm()
			group.Wait()
		})
	})
}

// The bound holds for loads that wait for another process, and whose waiters then meet trouble
// with the backend: they go on without a lease, and not without a place.
func TestMaxLoads_InAHurry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := open(t, aside.Config{Type: "memory"})
		store := &asidetest.Faulty{Backend: backendOf(memory)}
		one, two := must(aside.New(store, aside.Config{MaxLoads: 1})), must(aside.New(backendOf(memory), aside.Config{}))
		defer one.Close()
		defer two.Close()
		s := aside.Keyspace{Name: "s"}
		const n = 10
		for i := range n {
			defer loadsSlowly(two, s.Key(fmt.Sprint(i)), "v", nil)()
		}
		var running, most atomic.Int64
		read := func(i int) {
			_, err := aside.GetOrLoad(t.Context(), one, s.Key(fmt.Sprint(i)), func(context.Context) (string, error) {
				now := running.Add(1)
				defer running.Add(-1)
				for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
				}
				time.Sleep(20 * time.Millisecond) // for others to run beside it
				return "v", nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		var group sync.WaitGroup
		for i := range n {
			group.Go(func() { read(i) })
		}
		time.Sleep(time.Second)
		if waited := stats(t, one).Waited; waited != n {
			t.Errorf("%d wait for the other process, want %d", waited, n)
		}
		store.SetFault(func(_ context.Context, method string) error {
			if method == "Get" || method == "GetMarked" {
				return errDown
			}
			return nil
		})
		for i := range n {
			group.Go(func() { read(i) })
		}
		start := time.Now()
		group.Wait()
		if most.Load() != 1 {
			t.Errorf("%d loads ran at a time, want 1", most.Load())
		}
		if d := time.Since(start); d > n*20*time.Millisecond {
			t.Errorf("the loads took %v: they waited on for the other process", d)
		}
	})
}

// A near copy of a value that is found to be fresh is not old for as long as it is kept.
func TestRefresh_NearCopyOfAFreshValue(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(t *testing.T, c aside.Cache, s aside.Keyspace) (string, error){
		"GetOrLoad": func(t *testing.T, c aside.Cache, s aside.Keyspace) (string, error) {
			return aside.GetOrLoad(t.Context(), c, s.Key("B"), fails(t))
		},
		"GetOrLoadMany": func(t *testing.T, c aside.Cache, s aside.Keyspace) (string, error) {
			got, err := aside.GetOrLoadMany(t.Context(), c, []string{"B"}, s.Key, func(context.Context, []string) (map[string]string, error) {
				t.Error("loaded")
				return nil, nil
			})
			return got["B"], err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nearCopyOfAFreshValue(t, func(c aside.Cache, s aside.Keyspace) (string, error) { return read(t, c, s) })
		})
	}
}

func nearCopyOfAFreshValue(t *testing.T, readB func(c aside.Cache, s aside.Keyspace) (string, error)) {
	r := redistest.Start(t)
	s := aside.Keyspace{Name: "aged", TTL: time.Hour, RefreshAfter: 30 * time.Minute}
	c := overRedis(t, r.Addr, aside.Config{NearMaxBytes: 1 << 20, Keyspaces: []aside.Keyspace{s}})
	for i := 0; stats(t, c).NearHits == 0; i++ { // once Redis tells of changes
		get(t, c, s, loaded("v"), "v")
	}
	if err := r.Client().Set(t.Context(), s.Key("B").String(), `"theirs"`, 50*time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	read := func() (stale bool) {
		before := stats(t, c).StaleHits
		if v, err := readB(c, s); v != "theirs" || err != nil {
			t.Fatal(v, err)
		}
		return stats(t, c).StaleHits > before
	}
	if !read() {
		t.Error("a value without a mark is not old at first")
	}
	redistest.Eventually(t, "it is marked", func() bool {
		_, mark, _, err := backendOf(c).GetMarked(t.Context(), s.Key("B").String())
		return err == nil && mark == backend.Fresh
	})
	redistest.Eventually(t, "it is not old any more", func() bool { return !read() })
}
