package aside_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
)

// Tests of one load and its callers: how long it may last, and what each of them gets.

// gathered returns a cache over memory whose leases take a while, so that callers who
// come at once have all come before the load begins.
func gathered(cfg aside.Config) aside.Cache {
	store := &asidetest.Faulty{Backend: asidetest.Memory()}
	store.SetFault(func(_ context.Context, method string) error {
		if method == "Lease" {
			time.Sleep(100 * time.Millisecond)
		}
		return nil
	})
	return must(aside.New(store, cfg))
}

// hangs is a loader that does not obey its context.
func hangs(release <-chan struct{}) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		<-release
		return "late", nil
	}
}

func TestP4_ALoaderThatIgnoresItsContextEndsAtTheTimeout(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]string{"memory": "memory", "none": "none"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := must(aside.Open(aside.Config{Type: store, LoadTimeout: time.Minute}))
				defer c.Close()
				release := make(chan struct{})
				var wg sync.WaitGroup
				start := time.Now()
				for range 5 {
					wg.Go(func() {
						v, err := aside.GetOrLoad(t.Context(), c, room, hangs(release))
						if v != "" || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
							t.Errorf("a caller got %q, %v after %v, want DeadlineExceeded after a minute", v, err, time.Since(start))
						}
					})
				}
				time.Sleep(time.Minute + 10*time.Millisecond)
				for range 47 {
					wg.Go(func() {
						start := time.Now()
						v := read(t, c, func(context.Context) (string, error) { return "new", nil })
						if v != "new" || time.Since(start) > 10*time.Millisecond {
							t.Errorf("a newcomer got %q after %v, want new at once", v, time.Since(start))
						}
					})
				}
				synctest.Wait()
				time.Sleep(time.Second)
				close(release)
				wg.Wait()
				synctest.Wait()
				if store == "memory" {
					if v := read(t, c, fails(t)); v != "new" {
						t.Errorf("stored %q, want new", v)
					}
				}
				if s := asideStats(t, c); s.LoadErrors != 1 {
					t.Errorf("%d load errors, want 1", s.LoadErrors)
				}
			})
		})
	}
}

// The lease of a load that has timed out is free for another process at once.
func TestP3_ALoadThatTimedOutGivesItsLeaseBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		one, two := must(aside.New(backendOf(memory), aside.Config{LoadTimeout: time.Minute})), must(aside.New(backendOf(memory), aside.Config{}))
		defer one.Close()
		release := make(chan struct{})
		start := time.Now()
		go aside.GetOrLoad(t.Context(), one, room, hangs(release))
		synctest.Wait()
		read(t, two, func(context.Context) (string, error) { return "new", nil })
		if took := time.Since(start); took < time.Minute || took > time.Minute+20*time.Millisecond {
			t.Errorf("the other process loaded after %v, want a minute", took)
		}
		close(release)
		synctest.Wait()
		if v := read(t, one, fails(t)); v != "new" {
			t.Errorf("stored %q, want new", v)
		}
	})
}

func TestP4_LoadersThatWaitForEachOtherTimeOut(t *testing.T) {
	t.Parallel()
	other := aside.ChatMessages("B")
	fresh := func(context.Context) context.Context { return context.Background() }
	same := func(ctx context.Context) context.Context { return ctx }
	for name, pass := range map[string]func(context.Context) context.Context{"fresh context": fresh, "their context": same} {
		for _, keys := range [][]aside.Key{{room}, {room, other}} {
			t.Run(fmt.Sprint(name, len(keys)), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := must(aside.Open(aside.Config{Type: "memory", LoadTimeout: time.Minute}))
					defer c.Close()
					var loads counter
					var get func(ctx context.Context, i int) (string, error)
					get = func(ctx context.Context, i int) (string, error) {
						return aside.GetOrLoad(ctx, c, keys[i], func(ctx context.Context) (string, error) {
							loads.Add(1)
							return get(pass(ctx), (i+1)%len(keys))
						})
					}
					start := time.Now()
					_, err := get(t.Context(), 0)
					if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
						t.Errorf("got %v after %v, want DeadlineExceeded after a minute", err, time.Since(start))
					}
					time.Sleep(time.Hour)
					if n := loads.Load(); n > 2*int64(len(keys)) {
						t.Errorf("%d loads, for one call", n)
					}
					if v := read(t, c, func(context.Context) (string, error) { return "v", nil }); v != "v" {
						t.Errorf("after it: %q, want v", v)
					}
				})
			})
		}
	}
}

func TestP4_ALoadWithoutATimeoutLastsForAsLongAsItTakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory", LoadTimeout: -1}))
		defer c.Close()
		v := read(t, c, func(ctx context.Context) (string, error) {
			time.Sleep(24 * time.Hour)
			return "v", ctx.Err()
		})
		if v != "v" || read(t, c, fails(t)) != "v" {
			t.Errorf("got %q, want v", v)
		}
	})
}

// A loader whose flight has ended harms nobody, whatever it does.
func TestP4_ALoaderThatEndsLateHarmsNobody(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(){"panics": func() { panic("late") }, "returns": func() {}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := must(aside.Open(aside.Config{Type: "memory", LoadTimeout: time.Second}))
				var late sync.WaitGroup
				late.Add(1)
				_, err := aside.GetOrLoad(t.Context(), c, room, func(context.Context) (string, error) {
					defer late.Done()
					time.Sleep(time.Minute)
					end()
					return "late", nil
				})
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want DeadlineExceeded", err)
				}
				start := time.Now()
				c.Close()
				if time.Since(start) > time.Second {
					t.Errorf("Close waited for the loader: %v", time.Since(start))
				}
				late.Wait()
			})
		})
	}
}

// slowCodec takes its time to encode.
type slowCodec struct{ release chan struct{} }

func (c slowCodec) Encode(v any) ([]byte, error)    { <-c.release; return aside.JSON.Encode(v) }
func (c slowCodec) Decode(data []byte, p any) error { return aside.JSON.Decode(data, p) }

func TestP4_AnEncoderThatHangsEndsAtTheTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory", LoadTimeout: time.Minute}))
		defer c.Close()
		codec := slowCodec{make(chan struct{})}
		slow := aside.Keyspace{Name: "chat_messages", Codec: codec}
		_, err := aside.GetOrLoad(t.Context(), c, slow.Key("A"), func(context.Context) (string, error) { return "old", nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
		read(t, c, func(context.Context) (string, error) { return "new", nil })
		close(codec.release)
		synctest.Wait()
		if v := read(t, c, fails(t)); v != "new" {
			t.Errorf("stored %q, want new", v)
		}
	})
}

// oneWay encodes a value to what does not decode.
type oneWay struct{ N int }

func (l oneWay) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprint("one way ", l.N)) }
func (l *oneWay) UnmarshalJSON([]byte) error  { return errors.New("one way: not mine") }

// refuser is a Codec that encodes nothing.
type refuser struct{}

func (refuser) Encode(any) ([]byte, error) { return nil, errors.New("refused") }
func (refuser) Decode([]byte, any) error   { return errors.New("refused") }

func TestP4_ACallerWhoLoadsAloneLeavesWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory", LoadTimeout: time.Minute}))
		defer c.Close()
		space := aside.Keyspace{Name: "chat_messages", Codec: refuser{}}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
				defer cancel()
				start := time.Now()
				_, err := aside.GetOrLoad(ctx, c, space.Key("A"), func(ctx context.Context) (int, error) {
					if time.Since(start) < time.Second {
						time.Sleep(3 * time.Second)
						return 1, nil
					}
					time.Sleep(3 * time.Second) // alone, and does not obey
					return 1, ctx.Err()
				})
				if took := time.Since(start); took > 3500*time.Millisecond || err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("left with %v after %v, want 3.5s at most", err, took)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		// Nor is a load of one's own without the timeout of any other.
		for range 2 {
			wg.Go(func() {
				start := time.Now()
				_, err := aside.GetOrLoad(t.Context(), c, space.Key("B"), func(ctx context.Context) (int, error) {
					if time.Since(start) > 0 {
						time.Sleep(time.Hour)
					}
					time.Sleep(time.Second)
					return 1, nil
				})
				if time.Since(start) > 62*time.Second {
					t.Errorf("got %v after %v, want the load's timeout", err, time.Since(start))
				}
			})
		}
		wg.Wait()
		time.Sleep(2 * time.Hour)
	})
}

// Callers of a value that cannot be handed on load at once, when that is known.
func TestP3_AValueThatCanNotBeHandedOn(t *testing.T) {
	t.Parallel()
	for name, codec := range map[string]aside.Codec{"does not decode": nil, "is not encoded": refuser{}} {
		for _, share := range []bool{false, true} {
			t.Run(fmt.Sprint(name, share), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					memory := must(aside.Open(aside.Config{Type: "memory"}))
					store := &asidetest.Faulty{Backend: backendOf(memory)}
					c := must(aside.New(store, aside.Config{}))
					defer c.Close()
					space := aside.Keyspace{Name: "oneWay", Codec: codec, Share: share}
					var loads counter
					load := func(context.Context) (oneWay, error) {
						n := loads.Add(1)
						time.Sleep(time.Second)
						return oneWay{int(n)}, nil
					}
					start := time.Now()
					var wg sync.WaitGroup
					for range 100 {
						wg.Go(func() {
							if v := must(aside.GetOrLoad(t.Context(), c, space.Key("1"), load)); v.N == 0 {
								t.Error("got what nobody loaded")
							}
						})
					}
					wg.Wait()
					want, most := int64(100), 2*time.Second
					if share {
						want = 2 // the second of those who came after the first had begun
					}
					if loads.Load() > want || time.Since(start) > most {
						t.Errorf("%d loads in %v, want %d in %v", loads.Load(), time.Since(start), want, most)
					}
					for range 2 { // twice: what was stored is found out once
						for range 100 {
							wg.Go(func() { aside.GetOrLoad(t.Context(), c, space.Key("1"), load) })
						}
						wg.Wait()
					}
					var leases counter
					store.SetFault(func(_ context.Context, method string) error {
						if method == "Lease" {
							leases.Add(1)
						}
						return nil
					})
					loads.Store(0)
					start = time.Now()
					for range 100 {
						wg.Go(func() { aside.GetOrLoad(t.Context(), c, space.Key("1"), load) })
					}
					wg.Wait()
					if share {
						most += time.Second
					}
					if loads.Load() > want || time.Since(start) > most-time.Second || leases.Load() > 0 {
						t.Errorf("once it is known: %d loads in %v with %d leases, want at most %d at once, without", loads.Load(), time.Since(start), leases.Load(), want)
					}
				})
			})
		}
	}
}

// A loader that has captured the context of its caller ends with it. The others do
// not.
func TestP4_ALoaderThatEndsWithItsCallersContextFailsNobodyElse(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"cancelled": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		},
		"timed out": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := gathered(aside.Config{})
				defer c.Close()
				var loads counter
				get := func(ctx context.Context) (string, error) {
					return aside.GetOrLoad(ctx, c, room, func(context.Context) (string, error) {
						loads.Add(1)
						select {
						case <-ctx.Done():
							return "", fmt.Errorf("query: %w", ctx.Err())
						case <-time.After(2 * time.Second):
							return "v", nil
						}
					})
				}
				first, cancel := leave(t.Context())
				defer cancel()
				go get(first)
				synctest.Wait()
				var wg sync.WaitGroup
				for range 299 {
					wg.Go(func() {
						if v, err := get(t.Context()); v != "v" || err != nil {
							t.Errorf("a waiter got %q, %v, want v", v, err)
						}
					})
				}
				wg.Wait()
				if loads.Load() != 2 {
					t.Errorf("%d loads, want 2", loads.Load())
				}
			})
		})
	}
}

// An error that is a context's but not of the caller who brought the loader is
// everybody's, as any other: nobody loads once more for it.
func TestP4_AnErrorOfADatabasesOwnDeadlineIsEverybodys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := gathered(aside.Config{})
		defer c.Close()
		var loads counter
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := aside.GetOrLoad(t.Context(), c, room, func(ctx context.Context) (string, error) {
					loads.Add(1)
					ctx, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					<-ctx.Done()
					return "", ctx.Err()
				})
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want DeadlineExceeded", err)
				}
			})
		}
		wg.Wait()
		if loads.Load() != 1 {
			t.Errorf("%d loads, want 1", loads.Load())
		}
	})
}

func TestP4_NoLoaderIsCalledForNobody(t *testing.T) {
	t.Parallel()
	for _, callers := range []int{1, 5} {
		t.Run(fmt.Sprint(callers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := must(aside.Open(aside.Config{Type: "memory"}))
				store := &asidetest.Faulty{Backend: backendOf(memory)}
				c := must(aside.New(store, aside.Config{}))
				defer c.Close()
				store.SetFault(func(_ context.Context, method string) error {
					if method == "Lease" {
						time.Sleep(100 * time.Millisecond)
					}
					return nil
				})
				var loads counter
				for try := range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
					var wg sync.WaitGroup
					for range callers {
						wg.Go(func() { aside.GetOrLoad(ctx, c, items.Key(fmt.Sprint(try)), loads.load("v")) })
					}
					wg.Wait()
					cancel()
				}
				time.Sleep(time.Second)
				if n := loads.Load(); n > 0 {
					t.Errorf("%d loaders were called when nobody waited any more", n)
				}
				if l := must(backendOf(memory).Lease(t.Context(), "item:0", backend.LeaseRequest{TTL: time.Second})); l.State != backend.Granted {
					t.Errorf("the lease is %v, want it given back", l.State)
				}
				if s := asideStats(t, c); s.Loads != 0 {
					t.Errorf("%d loads are counted, want 0", s.Loads)
				}
			})
		})
	}
}

// together has one caller lead a load, and another join it: each with its keyspace.
func together[L, J any](t *testing.T, c aside.Cache, lead, join aside.Keyspace, led L, joined J) (l L, j J, loads int64) {
	t.Helper()
	var count counter
	var wg sync.WaitGroup
	wg.Go(func() {
		l = must(aside.GetOrLoad(t.Context(), c, lead.Key("1"), func(context.Context) (L, error) {
			count.Add(1)
			time.Sleep(time.Second)
			return led, nil
		}))
	})
	time.Sleep(10 * time.Millisecond)
	wg.Go(func() {
		j = must(aside.GetOrLoad(t.Context(), c, join.Key("1"), func(context.Context) (J, error) {
			count.Add(1)
			return joined, nil
		}))
	})
	wg.Wait()
	return l, j, count.Load()
}

// A caller gets the result of another's load as its own keyspace says.
func TestP9_ACallerIsHandedWhatItsOwnKeyspaceSays(t *testing.T) {
	t.Parallel()
	plain, share := aside.Keyspace{Name: "mixed"}, aside.Keyspace{Name: "mixed", Share: true}
	for _, store := range []string{"memory", "none"} {
		for name, spaces := range map[string][2]aside.Keyspace{
			"share joined by plain": {share, plain}, "plain joined by share": {plain, share}, "plain": {plain, plain}, "share": {share, share},
		} {
			t.Run(store+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := must(aside.Open(aside.Config{Type: store}))
					defer c.Close()
					led := []int{1, 2, 3}
					l, j, loads := together(t, c, spaces[0], spaces[1], led, []int{4, 5, 6})
					if loads != 1 && store == "memory" {
						t.Errorf("%d loads, want 1", loads)
					}
					same := len(j) > 0 && &l[0] == &j[0]
					if same != (name == "share") && loads == 1 {
						t.Errorf("the same value was handed out: %v", same)
					}
				})
			})
		}
	}
}

// gzipped is a Codec of its own form.
type marked struct{ with string }

func (m marked) Encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	return append([]byte(m.with), data...), err
}

func (m marked) Decode(data []byte, p any) error {
	data, ok := bytes.CutPrefix(data, []byte(m.with))
	if !ok {
		return errors.New("not " + m.with)
	}
	return json.Unmarshal(data, p)
}

// incomparable is a Codec whose values cannot be compared.
type incomparable struct {
	marked
	_ []int
}

func TestP9_ACallerDecodesWithItsOwnCodec(t *testing.T) {
	t.Parallel()
	for name, codecs := range map[string][2]aside.Codec{
		"another":      {marked{"a"}, marked{"b"}},
		"incomparable": {incomparable{marked: marked{"a"}}, incomparable{marked: marked{"b"}}},
		"bytes":        {marked{"a"}, aside.Bytes},
		"the same":     {incomparable{marked: marked{"a"}}, incomparable{marked: marked{"a"}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := must(aside.Open(aside.Config{Type: "memory"}))
				defer c.Close()
				lead, join := aside.Keyspace{Name: "mixed", Codec: codecs[0]}, aside.Keyspace{Name: "mixed", Codec: codecs[1]}
				_, j, loads := together(t, c, lead, join, "led", "joined")
				switch {
				case name == "the same" && (j != "led" || loads != 1):
					t.Errorf("got %q with %d loads, want led with 1", j, loads)
				case name == "bytes" && j != `a"led"`:
					t.Errorf("got %q, want the bytes that are stored", j)
				case (name == "another" || name == "incomparable") && j != "joined":
					t.Errorf("got %q, want joined", j)
				}
				// The leader's Codec is not known as one that decodes nothing.
				if _, j, loads := together(t, c, aside.Keyspace{Name: "mixed2", Codec: codecs[0]}, aside.Keyspace{Name: "mixed2", Codec: codecs[0]}, "led", "joined"); j != "led" || loads != 1 {
					t.Errorf("of one codec: got %q with %d loads, want led with 1", j, loads)
				}
			})
		})
	}
}

// A stored value is kept for no longer than the TTL of any of its callers.
func TestP9_AValueIsKeptAsShortAsAnyCallerSays(t *testing.T) {
	t.Parallel()
	long, short := aside.Keyspace{Name: "mixed", TTL: time.Hour, NotFoundTTL: time.Hour}, aside.Keyspace{Name: "mixed", TTL: time.Minute, NotFoundTTL: time.Minute}
	never := aside.Keyspace{Name: "mixed", TTL: time.Hour}
	for _, spaces := range [][2]aside.Keyspace{{long, short}, {short, long}, {long, never}, {never, long}} {
		synctest.Test(t, func(t *testing.T) {
			c := gathered(aside.Config{})
			defer c.Close()
			together(t, c, spaces[0], spaces[1], "v", "v")
			want := min(spaces[0].TTL, spaces[1].TTL)
			if ttl, ok, err := ttlOf(t.Context(), c, long.Key("1")); !ok || err != nil || ttl > want || ttl < want-2*time.Second {
				t.Errorf("kept for %v, %v, %v, want %v", ttl, ok, err, want)
			}
			var loads counter
			var wg sync.WaitGroup
			get := func(s aside.Keyspace) {
				_, err := aside.GetOrLoad(t.Context(), c, s.Key("2"), func(context.Context) (string, error) {
					loads.Add(1)
					time.Sleep(time.Second)
					return "", aside.ErrNotFound
				})
				if !errors.Is(err, aside.ErrNotFound) {
					t.Errorf("got %v, want ErrNotFound", err)
				}
			}
			for _, s := range spaces {
				wg.Go(func() { get(s) })
				synctest.Wait()
			}
			wg.Wait()
			for _, after := range []time.Duration{30 * time.Second, time.Minute} {
				loads.Store(0)
				time.Sleep(after)
				get(long)
				again := after > min(spaces[0].NotFoundTTL, spaces[1].NotFoundTTL)-2*time.Second
				if loads.Load() == 1 != again {
					t.Errorf("%v later: %d loads, want again: %v", after, loads.Load(), again)
				}
				if again {
					return
				}
			}
		})
	}
}

// fields is a struct that a nil is none of.
type fields struct{ A int }

func TestP8_ANilOfAnInterfaceIsNoZeroOfAnotherType(t *testing.T) {
	t.Parallel()
	for _, share := range []bool{false, true} {
		for _, store := range []string{"memory", "none"} {
			synctest.Test(t, func(t *testing.T) {
				c := must(aside.Open(aside.Config{Type: store}))
				defer c.Close()
				space := aside.Keyspace{Name: "nil", Share: share}
				if _, j, _ := together[fmt.Stringer](t, c, space, space, nil, fields{1}); j.A != 1 {
					t.Errorf("%s: got %v, which nobody loaded", store, j)
				}
				space.Name = "nil2"
				if l, j, _ := together[any, any](t, c, space, space, nil, 1); l != nil || store == "memory" && j != nil {
					t.Errorf("%s: got %v and %v, want nil", store, l, j)
				}
			})
		}
	}
}

// broken is an error whose methods panic, as those of a typed nil do.
type broken struct{ err error }

func (b *broken) Error() string        { return "broken" }
func (b *broken) Unwrap() error        { return b.err }
func (b *broken) Is(target error) bool { return b.err == target }

// brokenAs panics elsewhere.
type brokenAs struct{}

func (brokenAs) Error() string { return "broken" }
func (brokenAs) As(any) bool   { panic("As") }

func TestP4_AnErrorWhoseMethodsPanicIsReturned(t *testing.T) {
	t.Parallel()
	for _, failure := range []error{(*broken)(nil), brokenAs{}, fmt.Errorf("wrapped: %w", error((*broken)(nil)))} {
		synctest.Test(t, func(t *testing.T) {
			c := gathered(aside.Config{})
			defer c.Close()
			var loads atomic.Int64
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					_, err := aside.GetOrLoad(t.Context(), c, room, func(context.Context) (string, error) {
						loads.Add(1)
						time.Sleep(time.Second)
						return "", failure
					})
					if err != failure {
						t.Errorf("got %v, want the loader's error", err)
					}
				})
			}
			wg.Wait()
			if loads.Load() != 1 {
				t.Errorf("%d loads, want 1", loads.Load())
			}
			if v := read(t, c, func(context.Context) (string, error) { return "v", nil }); v != "v" {
				t.Errorf("after it: %q, want v", v)
			}
		})
	}
}

// An error that wraps ErrNotFound says that the key has no value, wherever it comes
// from; one that only has its text does not.
func TestP8_ANotFoundOfAnotherKeyCountsWhenItIsWrapped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory"}))
		defer c.Close()
		space := aside.Keyspace{Name: "part", NotFoundTTL: time.Minute}
		for verb, want := range map[string]int64{"%w": 1, "%v": 2} {
			var loads counter
			for range 2 {
				_, err := aside.GetOrLoad(t.Context(), c, space.Key("whole"+verb), func(ctx context.Context) (string, error) {
					loads.Add(1)
					_, err := aside.GetOrLoad(ctx, c, space.Key("part"+verb), func(context.Context) (string, error) { return "", aside.ErrNotFound })
					return "", fmt.Errorf("the whole: "+verb, err)
				})
				if errors.Is(err, aside.ErrNotFound) != (verb == "%w") {
					t.Errorf("%s: got %v", verb, err)
				}
			}
			if loads.Load() != want {
				t.Errorf("%s: %d loads, want %d", verb, loads.Load(), want)
			}
		}
	})
}
