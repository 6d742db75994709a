package aside_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/redistest"
)

var numbers = aside.Keyspace{Name: "number", NotFoundTTL: time.Minute}

func numberKey(id int) aside.Key { return numbers.Key(fmt.Sprint(id)) }

// table is a database of numbers, of which it has all but the multiples of 100, and the
// questions that it was asked.
type table struct {
	mu    sync.Mutex
	asked [][]int
	wait  func(ctx context.Context, ids []int) error // before each answer
}

func (db *table) load(ctx context.Context, ids []int) (map[int]string, error) {
	db.mu.Lock()
	db.asked = append(db.asked, slices.Clone(ids))
	db.mu.Unlock()
	rows := make(map[int]string)
	for _, id := range ids {
		if id%100 != 0 {
			rows[id] = fmt.Sprint("v", id)
		}
	}
	if db.wait != nil {
		if err := db.wait(ctx, ids); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// take returns what was asked since it was called last.
func (db *table) take() [][]int {
	db.mu.Lock()
	defer db.mu.Unlock()
	defer func() { db.asked = nil }()
	return db.asked
}

func (db *table) wantAsked(t *testing.T, want ...[]int) {
	t.Helper()
	if got := db.take(); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("the loader was called for %v, want %v", got, want)
	}
}

func rows(ids ...int) map[int]string {
	out := make(map[int]string)
	for _, id := range ids {
		out[id] = fmt.Sprint("v", id)
	}
	return out
}

// many reads ids, and returns when what was loaded is stored.
func many(t *testing.T, c aside.Cache, db *table, ids ...int) map[int]string {
	t.Helper()
	got, err := aside.GetOrLoadMany(t.Context(), c, ids, numberKey, db.load)
	aside.AwaitFills(c)
	if err != nil {
		t.Error(err)
	}
	return got
}

func wantRows(t *testing.T, got map[int]string, want ...int) {
	t.Helper()
	if !maps.Equal(got, rows(want...)) {
		t.Errorf("got %v, want %v", got, rows(want...))
	}
}

func one(ctx context.Context, c aside.Cache, id int, load func(context.Context) (string, error)) (string, error) {
	return aside.GetOrLoad(ctx, c, numberKey(id), load)
}

func span(from, to int) (ids []int) {
	for id := from; id < to; id++ {
		ids = append(ids, id)
	}
	return ids
}

// Hits are not loaded, the rest is, in one call, in the order of the ids, each once. What the
// loader leaves out does not exist, and what it was not asked for is not stored.
func TestMany(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c, db := newCache(t), &table{}
		wantRows(t, many(t, c, db, 3, 1, 100, 2, 1, 3), 1, 2, 3)
		db.wantAsked(t, []int{3, 1, 100, 2})
		wantRows(t, many(t, c, db, 4, 100, 1, 200, 5, 2), 1, 2, 4, 5)
		db.wantAsked(t, []int{4, 200, 5})
		wantRows(t, many(t, c, db, 1, 2, 3, 4, 5, 100, 200), 1, 2, 3, 4, 5)
		db.wantAsked(t)
		if _, err := one(t.Context(), c, 100, fails(t)); err != aside.ErrNotFound {
			t.Errorf("an id that was left out: got %v, want ErrNotFound", err)
		}
		if v, err := one(t.Context(), c, 5, fails(t)); v != "v5" || err != nil {
			t.Errorf("got %q, %v, want what was loaded with others", v, err)
		}
		if got, err := aside.GetOrLoadMany(t.Context(), c, nil, numberKey, db.load); got == nil || len(got) != 0 || err != nil {
			t.Errorf("no ids: got %v, %v, want an empty map", got, err)
		}
		db.wantAsked(t)
	})
}

func TestMany_ExtrasAreIgnored(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := newCache(t)
		many(t, c, &table{}, 2)
		got, err := aside.GetOrLoadMany(t.Context(), c, []int{1, 2}, numberKey, func(context.Context, []int) (map[int]string, error) {
			return map[int]string{1: "v1", 2: "stale", 3: "stale"}, nil
		})
		aside.AwaitFills(c)
		if err != nil || !maps.Equal(got, rows(1, 2)) {
			t.Errorf("got %v, %v, want what was asked for", got, err)
		}
		db := &table{}
		wantRows(t, many(t, c, db, 1, 2, 3), 1, 2, 3)
		db.wantAsked(t, []int{3})
	})
}

// holdLeases has the leases of ids, as another process that loads them, until release.
func holdLeases(t *testing.T, c aside.Cache, ids ...int) (release func()) {
	t.Helper()
	other, tokens := backendOf(c), make(map[int]string)
	for _, id := range ids {
		l, err := other.Lease(t.Context(), numberKey(id).String(), backend.LeaseRequest{TTL: time.Hour})
		if err != nil || l.State != backend.Granted {
			t.Fatal(l, err)
		}
		tokens[id] = l.Token
	}
	return func() {
		for id, token := range tokens {
			if err := other.Release(t.Context(), numberKey(id).String(), token); err != nil {
				t.Error(err)
			}
		}
	}
}

// Each with its own keyspace; ids of one key are loaded once, and all answered.
func TestMany_IDsOfOneKey(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := newCache(t)
		others := aside.Keyspace{Name: "other"}
		type id struct {
			space string
			n     int
		}
		key := func(i id) aside.Key {
			if i.space == "other" {
				return others.Key(fmt.Sprint(i.n % 10))
			}
			return numbers.Key(fmt.Sprint(i.n % 10))
		}
		ids := []id{{"number", 1}, {"number", 11}, {"other", 1}, {"number", 21}}
		for i := range 2 {
			var asked []id
			got, err := aside.GetOrLoadMany(t.Context(), c, ids, key, func(_ context.Context, ids []id) (map[id][]int, error) {
				asked = slices.Clone(ids)
				clear(ids) // they are the loader's
				return map[id][]int{{"number", 1}: {1}, {"other", 1}: {2}}, nil
			})
			aside.AwaitFills(c)
			if len(got) != 4 || got[ids[0]][0] != 1 || got[ids[1]][0] != 1 || got[ids[2]][0] != 2 || got[ids[3]][0] != 1 || err != nil {
				t.Fatalf("got %v, %v, want all four", got, err)
			}
			if want := []id{ids[0], ids[2]}; i == 0 && !slices.Equal(asked, want) || i == 1 && asked != nil {
				t.Errorf("read %d: the loader was called for %v, want %v at the first", i, asked, want)
			}
			got[ids[0]][0] = 7 // P9: and those of others are not changed
			if got[ids[1]][0] != 1 || got[ids[3]][0] != 1 {
				t.Errorf("got %v after a change of one value, want the others as they were", got)
			}
		}
	})
}

func TestMany_BadArguments(t *testing.T) {
	t.Parallel()
	c, db := open(t, aside.Config{Type: "memory"}), &table{}
	_, err := aside.GetOrLoadMany(t.Context(), c, []int{1, 2}, func(id int) aside.Key {
		if id == 2 {
			return numbers.Key("")
		}
		return numberKey(id)
	}, db.load)
	if !errors.Is(err, aside.ErrInvalidKey) || !strings.Contains(fmt.Sprint(err), `"2"`) {
		t.Errorf("got %v, want an invalid key of id 2", err)
	}
	if _, err := aside.GetOrLoadMany[int, string](t.Context(), c, []int{1}, numberKey, nil); err == nil {
		t.Error("no error without a loader")
	}
	if _, err := aside.GetOrLoadMany(t.Context(), c, []int{1}, nil, db.load); err == nil {
		t.Error("no error without a function for keys")
	}
	if _, err := aside.GetOrLoadMany(t.Context(), nil, []int{1}, numberKey, db.load); err == nil {
		t.Error("no error without a cache")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := aside.GetOrLoadMany(ctx, c, []int{1}, numberKey, db.load); err != context.Canceled {
		t.Errorf("got %v, want that of the context", err)
	}
	c.Close()
	if _, err := aside.GetOrLoadMany(t.Context(), c, []int{1}, numberKey, db.load); err != aside.ErrClosed {
		t.Errorf("got %v, want ErrClosed", err)
	}
	db.wantAsked(t)
}

// Values that a loader returns beside an error are returned with it, and not stored. No id
// counts as not found, even if the error says so of one.
func TestMany_Errors(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{errDown, fmt.Errorf("row 2: %w: %w", aside.ErrNotFound, errDown)} {
		storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
			c, db := newCache(t), &table{}
			many(t, c, db, 5)
			var inner error
			outer := aside.Keyspace{Name: "outer", NotFoundTTL: time.Minute}.Key("A")
			_, err := aside.GetOrLoad(t.Context(), c, outer, func(ctx context.Context) (string, error) {
				got, err := aside.GetOrLoadMany(ctx, c, []int{1, 2, 5}, numberKey, func(context.Context, []int) (map[int]string, error) {
					return rows(1), fault
				})
				wantRows(t, got, 1, 5)
				inner = err
				return "", err
			})
			if !errors.Is(err, errDown) || inner.Error() != fault.Error() || errors.Is(err, aside.ErrNotFound) {
				t.Errorf("got %v, want %v, and nothing not found", err, fault)
			}
			aside.AwaitFills(c)
			db.take()
			wantRows(t, many(t, c, db, 1, 2, 5), 1, 2, 5)
			db.wantAsked(t, []int{1, 2})
			if v, err := aside.GetOrLoad(t.Context(), c, outer, func(context.Context) (string, error) { return "there", nil }); v != "there" || err != nil {
				t.Errorf("got %q, %v: the error of a part was remembered as not found", v, err)
			}
		})
	}
}

// Those who joined a batch that failed get its error, and those who joined one that did not
// get values of their own. One load serves all of them.
func TestMany_SharesFlights(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{"a load": nil, "a failed load": fmt.Errorf("%w: %w", errDown, aside.ErrNotFound)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := open(t, aside.Config{Type: "memory"})
				db := &table{wait: func(context.Context, []int) error { time.Sleep(time.Second); return fault }}
				check := func(got map[int]string, err error, want ...int) {
					if fault != nil {
						if !errors.Is(err, errDown) || errors.Is(err, aside.ErrNotFound) {
							t.Errorf("got %v, %v, want the load's error", got, err)
						}
					} else if err != nil || !maps.Equal(got, rows(want...)) {
						t.Errorf("got %v, %v, want %v", got, err, want)
					}
				}
				release := holdLeases(t, c, 6, 7, 8)
				var wg sync.WaitGroup
				wg.Go(func() { // before
					v, err := one(t.Context(), c, 7, func(context.Context) (string, error) { time.Sleep(2 * time.Second); return "v7", nil })
					if v != "v7" || err != nil {
						t.Errorf("got %q, %v, want v7", v, err)
					}
				})
				synctest.Wait()
				wg.Go(func() {
					got, err := aside.GetOrLoadMany(t.Context(), c, []int{6, 7, 8}, numberKey, db.load)
					if check(got, err, 6, 7, 8); got[7] != "v7" {
						t.Errorf("got %v, want what another call has loaded beside the error", got)
					}
				})
				synctest.Wait()
				for range 2 { // after
					wg.Go(func() {
						got, err := aside.GetOrLoadMany(t.Context(), c, []int{8, 9, 6}, numberKey, func(_ context.Context, ids []int) (map[int]string, error) {
							return rows(ids...), nil
						})
						if check(got, err, 6, 8, 9); got[9] != "v9" {
							t.Errorf("got %v, want what this call has loaded", got)
						}
					})
					wg.Go(func() {
						v, err := one(t.Context(), c, 6, fails(t))
						check(map[int]string{6: v}, err, 6)
					})
				}
				synctest.Wait()
				release()
				wg.Wait()
				db.wantAsked(t, []int{6, 8})
			})
		})
	}
}

// The loader's context ends when the callers of all ids have left, and not before.
func TestMany_P4_Callers(t *testing.T) {
	t.Parallel()
	type name struct{}
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory"})
		var ended atomic.Bool
		db := &table{wait: func(ctx context.Context, _ []int) error {
			if ctx.Value(name{}) != "mine" {
				t.Error("the loader's context has not the caller's values")
			}
			select {
			case <-ctx.Done():
				ended.Store(true)
			case <-time.After(time.Minute):
			}
			return ctx.Err()
		}}
		for _, stays := range []bool{true, false} {
			ended.Store(false)
			mine, leave := context.WithCancel(context.WithValue(t.Context(), name{}, "mine"))
			var wg sync.WaitGroup
			wg.Go(func() {
				if got, err := aside.GetOrLoadMany(mine, c, span(1, 50), numberKey, db.load); err != context.Canceled || len(got) != 0 {
					t.Errorf("got %v, %v, want the caller's own end", got, err)
				}
			})
			synctest.Wait()
			other, go2 := context.WithCancel(t.Context())
			wg.Go(func() {
				v, err := one(other, c, 7, fails(t))
				if stays && (v != "v7" || err != nil) || !stays && err != context.Canceled {
					t.Errorf("got %q, %v of one that joined, want v7 or its own end", v, err)
				}
			})
			synctest.Wait()
			leave()
			synctest.Wait()
			if ended.Load() {
				t.Error("the load has ended with its caller, and another waits for it")
			}
			if !stays {
				go2()
			}
			wg.Wait()
			synctest.Wait()
			if ended.Load() == stays {
				t.Errorf("the load has ended: %v, want %v", ended.Load(), !stays)
			}
			go2()
			if stays {
				wantRows(t, many(t, c, &table{}, span(1, 50)...), span(1, 50)...)
				if err := c.Clear(t.Context(), "number:"); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// A panic reaches every caller of every id, and leaves nothing behind.
func TestMany_P4_Panics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory"})
		release := holdLeases(t, c, 1, 2, 3)
		var wg sync.WaitGroup
		panics := func(read func()) {
			wg.Go(func() {
				defer func() {
					if p, ok := recover().(*aside.PanicError); !ok || p.Value != "boom" {
						t.Errorf("got %v, want the loader's panic", p)
					}
				}()
				read()
				t.Error("no panic")
			})
			synctest.Wait()
		}
		panics(func() {
			_, _ = aside.GetOrLoadMany(t.Context(), c, []int{1, 2, 3}, numberKey, func(context.Context, []int) (map[int]string, error) {
				time.Sleep(time.Second)
				panic("boom")
			})
		})
		panics(func() {
			_, _ = aside.GetOrLoadMany(t.Context(), c, []int{3, 4, 5}, numberKey, (&table{wait: func(ctx context.Context, _ []int) error {
				<-ctx.Done() // when the caller has panicked
				return nil
			}}).load)
		})
		panics(func() { _, _ = one(t.Context(), c, 2, fails(t)) })
		release()
		wg.Wait()
		synctest.Wait()
		db := &table{}
		wantRows(t, many(t, c, db, 1, 2, 3, 4, 5), 1, 2, 3, 4, 5)
		db.wantAsked(t, []int{1, 2, 3, 4, 5})
	})
}

func TestMany_P4_ALoaderThatEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	c := open(t, aside.Config{Type: "memory"})
	_, err := aside.GetOrLoadMany(t.Context(), c, []int{1, 2}, numberKey, func(context.Context, []int) (map[int]string, error) {
		runtime.Goexit()
		return nil, nil
	})
	if err == nil || !strings.Contains(err.Error(), "Goexit") {
		t.Errorf("got %v, want an error", err)
	}
	wantRows(t, many(t, c, &table{}, 1, 2), 1, 2)
}

// A load takes at most LoadTimeout, whether or not its loader ends then, and what comes later
// is dropped.
func TestMany_LoadTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory", LoadTimeout: time.Minute})
		db := &table{wait: func(context.Context, []int) error { time.Sleep(time.Hour); return nil }}
		start := time.Now()
		got, err := aside.GetOrLoadMany(t.Context(), c, []int{1, 2}, numberKey, db.load)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || len(got) != 0 || took != time.Minute {
			t.Errorf("got %v, %v after %v, want that it took too long, after a minute", got, err, took)
		}
		db = &table{}
		time.Sleep(2 * time.Hour)
		many(t, c, db, 1, 2)
		db.wantAsked(t, []int{1, 2})
	})
}

// P1: a write while the batch is loaded keeps its key's value from being stored, and from
// readers who come after it; the other ids are stored.
func TestMany_P1_AWriteMeanwhile(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		for name, write := range map[string]func(c aside.Cache) error{
			"Update": func(c aside.Cache) error {
				return aside.Update(t.Context(), c, func(context.Context) error { return nil }, numberKey(2))
			},
			"Invalidate": func(c aside.Cache) error { return aside.Invalidate(t.Context(), c, numberKey(2)) },
		} {
			c := newCache(t)
			if err := c.Clear(t.Context(), "number:"); err != nil {
				t.Fatal(err)
			}
			loading, goOn := make(chan struct{}), make(chan struct{})
			db := &table{wait: func(context.Context, []int) error { close(loading); <-goOn; return nil }}
			var wg sync.WaitGroup
			wg.Go(func() { wantRows(t, many(t, c, db, 1, 2, 3), 1, 2, 3) })
			<-loading
			if err := write(c); err != nil {
				t.Error(err)
			}
			v, err := one(t.Context(), c, 2, func(context.Context) (string, error) { return "new", nil })
			if v != "new" || err != nil {
				t.Errorf("%s: got %q, %v after the write, want the new value", name, v, err)
			}
			close(goOn)
			wg.Wait()
			aside.AwaitFills(c)
			got := many(t, c, &table{wait: func(context.Context, []int) error { t.Error("loaded"); return nil }}, 1, 2, 3)
			if got[1] != "v1" || got[2] != "new" || got[3] != "v3" {
				t.Errorf("%s: got %v, want the written value and the others", name, got)
			}
		}
	})
}

// A batch loads what it may, and stores that, before it waits for other processes; and loads
// what those have failed to in one more call.
func TestMany_HoldsNoLeaseWhileItWaits(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c, begun := newCache(t), make(chan struct{}, 9)
		db := &table{wait: func(context.Context, []int) error { begun <- struct{}{}; return nil }}
		other := backendOf(c)
		tokens := make(map[int]string)
		for _, id := range []int{1, 3, 5} {
			l, err := other.Lease(t.Context(), numberKey(id).String(), backend.LeaseRequest{TTL: time.Minute})
			if err != nil || l.State != backend.Granted {
				t.Fatal(l, err)
			}
			tokens[id] = l.Token
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			got, err := aside.GetOrLoadMany(t.Context(), c, []int{1, 2, 3, 4, 5}, numberKey, db.load)
			if want := rows(1, 2, 4, 5); err != nil || got[3] != "theirs" || len(got) != 5 || got[1] != want[1] {
				t.Errorf("got %v, %v, want all five, the third of another process", got, err)
			}
		}()
		select {
		case <-begun:
		case <-time.After(20 * time.Second):
			t.Fatal("the loader is not called while others load")
		}
		for _, id := range []int{2, 4} { // they are stored, or can be had, while the others are waited for
			if v, err := one(t.Context(), c, id, fails(t)); v != fmt.Sprint("v", id) || err != nil {
				t.Errorf("got %q, %v, want what the batch has loaded", v, err)
			}
		}
		aside.AwaitFills(c)
		if _, ok, err := other.Get(t.Context(), numberKey(2).String()); !ok || err != nil {
			t.Errorf("not stored while the batch waits: %v", err)
		}
		db.wantAsked(t, []int{2, 4})
		select {
		case <-ended:
			t.Error("the call has ended while others load")
		default:
		}
		if ok, err := other.Fill(t.Context(), numberKey(3).String(), tokens[3], backend.Fill{Value: []byte(`"theirs"`), TTL: time.Minute}); !ok || err != nil {
			t.Error(ok, err)
		}
		for _, id := range []int{1, 5} {
			if err := other.Release(t.Context(), numberKey(id).String(), tokens[id]); err != nil {
				t.Error(err)
			}
		}
		<-ended
		aside.AwaitFills(c)
		asked := db.take()
		if all := slices.Concat(asked...); len(all) != 2 || !slices.Contains(all, 1) || !slices.Contains(all, 5) {
			t.Errorf("the loader was called for %v, want the two that others have failed to load", asked)
		}
	})
}

// Two processes that ask for the same ids, in opposite orders, load each once.
func TestMany_P3_TwoProcesses(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	a, b := overRedis(t, server.Addr(), aside.Config{}), overRedis(t, server.Addr(), aside.Config{})
	var loads sync.Map
	for round := range 20 {
		ids := span(round*300+1, round*300+99)
		back := slices.Clone(ids)
		slices.Reverse(back)
		var wg sync.WaitGroup
		for _, p := range []struct {
			c   aside.Cache
			ids []int
		}{{a, ids}, {b, back}, {a, back}, {b, ids[20:40]}} {
			wg.Go(func() {
				db := &table{wait: func(_ context.Context, ids []int) error {
					for _, id := range ids {
						if _, again := loads.LoadOrStore(id, true); again {
							t.Errorf("%d was loaded again", id)
						}
					}
					time.Sleep(time.Millisecond)
					return nil
				}}
				wantRows(t, many(t, p.c, db, p.ids...), p.ids...)
			})
		}
		wg.Wait()
	}
}

// The leases of a load that takes long are extended together, and another process waits.
func TestMany_ExtendsItsLeases(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		c2, end := (&line{}).connect(t, server, aside.Config{})
		defer end()
		go func() { // miniredis has no clock of its own
			for range 100 {
				time.Sleep(100 * time.Millisecond)
				server.FastForward(100 * time.Millisecond)
			}
		}()
		db := &table{wait: func(context.Context, []int) error { time.Sleep(8 * time.Second); return nil }}
		var wg sync.WaitGroup
		wg.Go(func() { wantRows(t, many(t, c, db, span(1, 61)...), span(1, 61)...) })
		time.Sleep(100 * time.Millisecond)
		l.take()
		wg.Go(func() { wantRows(t, many(t, c2, db, span(1, 61)...), span(1, 61)...) })
		time.Sleep(5 * time.Second)
		sent := l.take()
		extends := slices.DeleteFunc(sent, func(s string) bool { return s != "pipeline of 60" })
		if len(extends) < 5 || len(extends) > 8 {
			t.Errorf("%d pipelines of 60 in 5 s, want 7: %q", len(extends), sent)
		}
		wg.Wait()
		db.wantAsked(t, span(1, 61))
		time.Sleep(5 * time.Second)
	})
}

// Hits are one MGET, and a miss is that, and a pipeline for the leases and for the fills of 64.
func TestMany_RoundTrips(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, _ *miniredis.Miniredis) {
		many(t, c, &table{}, 1, 2) // scripts are known
		l.take()
		db := &table{}
		many(t, c, db, span(1, 100)...)
		kinds := func() string {
			var kinds []string
			for _, s := range l.take() {
				words := strings.Fields(s)
				if words[0] == "mget" {
					s = fmt.Sprint("mget ", len(words)-1)
				}
				if words[0] != "hello" { // of a new connection
					kinds = append(kinds, s)
				}
			}
			slices.Sort(kinds) // some are on their way at once
			return strings.Join(kinds, ", ")
		}
		if got, want := kinds(), "mget 99, pipeline of 33, pipeline of 33, pipeline of 64, pipeline of 64"; got != want {
			t.Errorf("misses: got %q, want %q", got, want)
		}
		many(t, c, db, span(1, 100)...)
		if got := kinds(); got != "mget 99" {
			t.Errorf("hits: got %q, want one MGET", got)
		}
		many(t, c, db, span(1, 300)...)
		if got := kinds(); !strings.HasPrefix(got, "mget 128, mget 128, mget 43, pipeline of ") {
			t.Errorf("many: got %q, want pieces", got)
		}
	})
}

// Thousands of ids go in pieces, and other reads come in between.
func TestMany_LeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{Timeout: time.Second}, func(t *testing.T, c aside.Cache, l *line, _ *miniredis.Miniredis) {
		many(t, c, &table{}, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			ids := slices.DeleteFunc(span(1, 4_001), func(id int) bool { return id%100 == 0 })
			wantRows(t, many(t, c, &table{}, ids...), ids...)
		})
		slowest := time.Duration(0)
		for i := range 100 {
			time.Sleep(time.Millisecond)
			start := time.Now()
			if v, err := one(t.Context(), c, 1, fails(t)); v != "v1" || err != nil {
				t.Errorf("%d: got %q, %v", i, v, err)
			}
			slowest = max(slowest, time.Since(start))
		}
		wg.Wait()
		if slowest > 30*time.Millisecond { // a round trip is 2 ms, of virtual time
			t.Errorf("a read took %v beside it, want a few round trips of 2 ms", slowest)
		}
		for _, s := range l.take() {
			if n := len(strings.Fields(s)); n > 129 {
				t.Errorf("a command with %d words, want pieces", n)
			}
		}
	})
}

// P5: without Redis all are loaded, in one call, within a budget; a key that is distrusted
// does not keep the others from the cache.
func TestMany_P5_Trouble(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, _ *miniredis.Miniredis) {
		db := &table{}
		many(t, c, db, span(1, 10)...)
		db.take()
		l.hang(true)
		for range 5 {
			start := time.Now()
			wantRows(t, many(t, c, db, span(1, 99)...), span(1, 99)...)
			db.wantAsked(t, span(1, 99))
			if took := time.Since(start); took > 260*time.Millisecond {
				t.Errorf("took %v, want a budget at most", took)
			}
		}
		l.hang(false)
	})
}

func TestMany_P5_DistrustedIDs(t *testing.T) {
	t.Parallel()
	c, store := faulty(t, aside.Config{})
	db := &table{}
	many(t, c, db, 1, 2, 3, 4)
	store.SetFault(func(_ context.Context, op string) error {
		if op == "Delete" {
			return errDown
		}
		return nil
	})
	if err := aside.Invalidate(t.Context(), c, numberKey(2)); err != nil {
		t.Error(err)
	}
	db.take()
	for range 2 {
		wantRows(t, many(t, c, db, 1, 2, 3, 4, 5), 1, 2, 3, 4, 5)
	}
	db.wantAsked(t, []int{2, 5}, []int{2})
}

// A backend of others, which carries out one command at a time.
func TestMany_ABackendOfOthers(t *testing.T) {
	t.Parallel()
	c, _ := faulty(t, aside.Config{})
	db := &table{}
	wantRows(t, many(t, c, db, span(1, 99)...), span(1, 99)...)
	wantRows(t, many(t, c, db, span(1, 98)...), span(1, 98)...)
	db.wantAsked(t, span(1, 99))
}

func TestMany_None(t *testing.T) {
	t.Parallel()
	c, db := open(t, aside.Config{Type: "none"}), &table{}
	for range 2 {
		wantRows(t, many(t, c, db, 1, 2, 3), 1, 2, 3)
		db.wantAsked(t, []int{1, 2, 3})
	}
}

func TestMany_Cluster(t *testing.T) {
	t.Parallel()
	var hosts []string
	for _, s := range redistest.StartCluster(t) {
		hosts = append(hosts, s.Addr)
	}
	c := open(t, aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{Hosts: hosts, Cluster: true}})
	db := &table{}
	wantRows(t, many(t, c, db, span(1, 99)...), span(1, 99)...)
	wantRows(t, many(t, c, db, span(1, 99)...), span(1, 99)...)
	db.wantAsked(t, span(1, 99))
}

// Old values are returned at once, and loaded again in one call.
func TestMany_OldValues(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory"})
		space := aged
		key := func(id int) aside.Key { return space.Key(fmt.Sprint(id)) }
		version, asked := 0, [][]int(nil)
		load := func(ctx context.Context, ids []int) (map[int]string, error) {
			version++
			v := version
			asked = append(asked, ids)
			time.Sleep(time.Second)
			out := make(map[int]string)
			for _, id := range ids {
				if id != 3 || v == 1 {
					out[id] = fmt.Sprint("v", v)
				}
			}
			return out, ctx.Err()
		}
		read := func(want map[int]string, wait time.Duration, ids ...int) {
			t.Helper()
			start := time.Now()
			got, err := aside.GetOrLoadMany(t.Context(), c, ids, key, load)
			if took := time.Since(start); err != nil || !maps.Equal(got, want) || took != wait {
				t.Errorf("got %v, %v after %v, want %v after %v", got, err, took, want, wait)
			}
		}
		read(map[int]string{1: "v1", 2: "v1", 3: "v1"}, time.Second, 1, 2, 3)
		time.Sleep(time.Minute)
		read(map[int]string{1: "v1", 2: "v1", 3: "v1"}, 0, 1, 2, 3)
		read(map[int]string{1: "v1", 2: "v1", 3: "v1"}, 0, 1, 2, 3)
		time.Sleep(2 * time.Second)
		read(map[int]string{1: "v2", 2: "v2"}, 0, 1, 2)
		time.Sleep(time.Minute)
		space.RefreshWait = 2 * time.Second
		read(map[int]string{1: "v3", 2: "v3"}, time.Second, 1, 2)
		if want := [][]int{{1, 2, 3}, {1, 2, 3}, {1, 2}}; !slices.EqualFunc(asked, want, slices.Equal) {
			t.Errorf("the loader was called for %v, want %v", asked, want)
		}
		if s := stats(t, c); s.Refreshes != 2 || s.StaleHits != 6 {
			t.Errorf("%+v, want 2 refreshes, 6 stale hits", s)
		}
		time.Sleep(time.Minute)
		space.RefreshWait = time.Millisecond
		read(map[int]string{1: "v3", 2: "v3"}, time.Millisecond, 1, 2)
		time.Sleep(2 * time.Second)
	})
}

// Each id is counted, and told of.
func TestMany_IsObserved(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	told := make(map[string]int)
	c := open(t, aside.Config{Type: "memory", Hooks: []hook.Hooks{{Hits: true, Read: func(_ context.Context, r hook.Read) {
		mu.Lock()
		defer mu.Unlock()
		told[fmt.Sprint(r.Keyspace, " ", r.Outcome, " ", r.Err)]++
	}}}})
	many(t, c, &table{}, 1, 2, 100)
	many(t, c, &table{}, 1, 2, 3, 100)
	want := map[string]int{"number miss <nil>": 3, "number hit <nil>": 2, "number miss " + aside.ErrNotFound.Error(): 2}
	if !maps.Equal(told, want) {
		t.Errorf("got %v, want %v", told, want)
	}
	if s := stats(t, c); s.Hits != 2 || s.Misses != 5 || s.Loads != 2 {
		t.Errorf("%+v, want 2 hits, 5 misses, 2 loads", s)
	}
}

// With Share, all have the same value; without it, each has its own.
func TestMany_Ownership(t *testing.T) {
	t.Parallel()
	for _, share := range []bool{false, true} {
		c := open(t, aside.Config{Type: "memory"})
		space := aside.Keyspace{Name: "owned", Share: share}
		key := func(id int) aside.Key { return space.Key(fmt.Sprint(id)) }
		kept := map[int]*[]int{1: {1}, 2: {2}}
		load := func(context.Context, []int) (map[int]*[]int, error) { return kept, nil }
		first := must(aside.GetOrLoadMany(t.Context(), c, []int{1, 2}, key, load))
		aside.AwaitFills(c)
		delete(kept, 1) // the result is not the loader's map
		if len(first) != 2 {
			t.Errorf("got %v, want a map of the caller's own", first)
		}
		a := must(aside.GetOrLoadMany(t.Context(), c, []int{1, 2}, key, load))
		b := must(aside.GetOrLoadMany(t.Context(), c, []int{1, 2}, key, load))
		if same := a[1] == b[1]; same != share {
			t.Errorf("Share is %v, and two callers have the same value: %v", share, same)
		}
		delete(a, 1)
		if len(b) != 2 {
			t.Error("two callers have the same map")
		}
	}
}

// The options of loaders and callers hold for ids that are loaded together.
func TestGetOrLoadMany_KeepForFreshMaxLoads(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := must(aside.New(backendOf(newCache(t)), aside.Config{MaxLoads: 1}))
		s := aside.Keyspace{Name: "asked", TTL: time.Hour, Codec: boundCodec{}}
		load := func(version string, keep func(context.Context)) func(context.Context, []string) (map[string]string, error) {
			return func(ctx context.Context, ids []string) (map[string]string, error) {
				keep(ctx)
				out := make(map[string]string)
				for _, id := range ids {
					// A load within the only one that may run needs no place.
					v, err := aside.GetOrLoad(ctx, c, s.Key(version+id), func(context.Context) (string, error) { return version + id, nil })
					if err != nil {
						return nil, err
					}
					out[id] = v
				}
				return out, nil
			}
		}
		want := func(ctx context.Context, version string, load func(context.Context, []string) (map[string]string, error)) {
			t.Helper()
			got, err := aside.GetOrLoadMany(ctx, c, []string{"A", "B", "C"}, s.Key, load)
			if err != nil || got["A"] != version+"A" || got["B"] != version+"B" || got["C"] != version+"C" {
				t.Errorf("got %v, %v, want version %q", got, err, version)
			}
			aside.AwaitFills(c)
		}
		want(t.Context(), "1", load("1", func(ctx context.Context) {
			aside.KeepFor(ctx, time.Minute)
			aside.KeepFor(ctx, 0, s.Key("B"))
			aside.KeepFor(ctx, 0, s.Key("Z"))
		}))
		for id, left := range map[string]time.Duration{"A": time.Minute, "B": 0, "C": time.Minute} {
			if _, got, ok, err := aside.Peek[string](t.Context(), c, s.Key(id)); err != nil || got > left || ok != (left > 0) {
				t.Errorf("%s is kept for %v, %v, %v, want %v", id, got, ok, err, left)
			}
		}
		want(aside.Fresh(t.Context()), "2", load("2", func(context.Context) {}))
		want(t.Context(), "2", func(context.Context, []string) (map[string]string, error) { t.Error("loaded"); return nil, nil })
	})
}

// With a near cache, hits make no round trip until another process has changed a value.
func TestMany_NearCache(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	cfg := aside.Config{KeyPrefix: "app:", NearMaxBytes: 1 << 20, Keyspaces: []aside.Keyspace{numbers}}
	c, other, db := overRedis(t, r.Addr, cfg), overRedis(t, r.Addr, cfg), &table{}
	for stats(t, c).NearHits < 3 { // once Redis tells of changes
		wantRows(t, many(t, c, db, 1, 2, 3), 1, 2, 3)
	}
	db.wantAsked(t, []int{1, 2, 3})
	if err := aside.Invalidate(t.Context(), other, numberKey(2)); err != nil {
		t.Error(err)
	}
	for asked := [][]int(nil); asked == nil; asked = db.take() { // when the news has arrived
		wantRows(t, many(t, c, db, 1, 2, 3), 1, 2, 3)
	}
}
