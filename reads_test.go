package aside_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

func TestReadsThatComeAtOnceGoTogether(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		var keys []aside.Key
		var want []string
		for i := range 60 {
			key := items.Key(fmt.Sprint(i % 30)) // each twice
			keys, want = append(keys, key), append(want, fmt.Sprint("v", i%30))
			_ = server.Set(key.String(), fmt.Sprintf("%q", want[i]))
		}
		start := time.Now()
		if got := ask(t, c, keys...); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if d := time.Since(start); d > 5*time.Millisecond {
			t.Errorf("two round trips of 2ms took %v", d)
		}
		sent := l.take()
		if n := len(sent); n > 17 || !strings.HasPrefix(sent[n-1], "mget") {
			t.Errorf("60 reads were sent as %q", sent)
		}
		if again := strings.Count(sent[len(sent)-1], "item:29"); again != 1 {
			t.Errorf("a key that is read twice is asked for %d times: %q", again, sent)
		}
		// A batch of 500 is several.
		for i := range 500 {
			keys = append(keys, items.Key(fmt.Sprint("more", i)))
		}
		ask(t, c, keys...)
		for _, text := range l.take() {
			if n := len(strings.Fields(text)); strings.HasPrefix(text, "mget") && n > 129 {
				t.Errorf("%d keys in one command", n-1)
			}
		}
	})
}

// A reader's value was requested after the reader came, also when it comes while a batch is
// on its way.
func TestP1_AReadIsNotGivenWhatWasAskedForBeforeItCame(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		_ = server.Set("item:1", `"old"`)
		var wg sync.WaitGroup
		early := make([]string, 20)
		for i := range early {
			wg.Go(func() { early[i] = ask(t, c, items.Key("1"))[0] })
		}
		// By now the singles are back, and the batch has read the old value.
		time.Sleep(3*time.Millisecond + 500*time.Microsecond)
		_ = server.Set("item:1", `"new"`)
		late := ask(t, c, slices.Repeat([]aside.Key{items.Key("1")}, 20)...)
		wg.Wait()
		if !slices.Contains(early, "old") {
			t.Errorf("the early ones got %q", early)
		}
		if slices.Contains(late, "old") {
			t.Errorf("those who came after the write got %q", late)
		}
	})
}

// A read leaves when its context ends, and takes nobody with it.
func TestP4_AReadLeavesItsBatch(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		_ = server.Set("item:1", `"v"`)
		var wg sync.WaitGroup
		var left atomic.Int32
		for i := range 60 {
			wg.Go(func() {
				if i%2 == 0 {
					if got := ask(t, c, items.Key("1"))[0]; got != "v" {
						t.Errorf("got %q", got)
					}
					return
				}
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Millisecond, cancel)
				v, err := aside.GetOrLoad(ctx, c, items.Key("1"), func(context.Context) (string, error) { return "loaded", nil })
				if errors.Is(err, context.Canceled) {
					left.Add(1)
				} else if v != "v" || err != nil { // of a command of its own, which was nearly over
					t.Errorf("got %q, %v", v, err)
				}
			})
		}
		time.Sleep(1500 * time.Microsecond)
		if n := left.Load(); n < 10 {
			t.Errorf("half a millisecond after their contexts ended, %d of 30 have left", n)
		}
		wg.Wait()
	})
}

// However many wait when Redis hangs, each pays one budget at most, or half of the
// time that it has.
func TestP5_AHungBatchCostsOneBudget(t *testing.T) {
	t.Parallel()
	for _, deadline := range []time.Duration{0, 100 * time.Millisecond} {
		overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
			l.hang(true)
			want := 250 * time.Millisecond
			if deadline > 0 {
				want = deadline / 2
			}
			var wg sync.WaitGroup
			for i := range 1000 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * 10 * time.Microsecond)
					ctx, cancel := context.WithCancel(t.Context())
					if deadline > 0 {
						ctx, cancel = context.WithTimeout(t.Context(), deadline)
					}
					defer cancel()
					start := time.Now()
					v, err := aside.GetOrLoad(ctx, c, items.Key(fmt.Sprint(i)), func(context.Context) (string, error) { return "loaded", nil })
					if v != "loaded" || err != nil {
						t.Errorf("got %q, %v", v, err)
					}
					if d := time.Since(start); d > want {
						t.Errorf("a call with a deadline of %v took %v", deadline, d)
					}
				})
			}
			wg.Wait()
			l.hang(false)
			time.Sleep(time.Second)
			_ = server.Set("item:1", `"v"`)
			if got := ask(t, c, items.Key("1"))[0]; got != "v" {
				t.Errorf("when Redis is back, got %q", got)
			}
		})
	}
}

// The time for which a batch has waited in line is off its budget.
func TestP5_ABatchThatWaitedHasLessTime(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		l.arrives = func(string) { time.Sleep(70 * time.Millisecond) }
		time.AfterFunc(35*time.Millisecond, func() { l.hang(true) })
		keys := slices.Repeat([]aside.Key{items.Key("1")}, 40)
		start := time.Now()
		ask(t, c, keys...)
		if d := time.Since(start); d > 251*time.Millisecond {
			t.Errorf("the last call took %v", d)
		}
		if sent := l.take(); !strings.HasPrefix(strings.Join(sent, "\n"), "get") || !strings.Contains(strings.Join(sent, "\n"), "mget") {
			t.Errorf("there was no line: %q", sent)
		}
	})
}

// Large values are read few at a time, so that small ones do not wait for many of
// them.
func TestLargeValuesAreReadFewAtATime(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		var keys []aside.Key
		for i := range 100 {
			key := items.Key(fmt.Sprint(i))
			keys = append(keys, key)
			_ = server.Set(key.String(), `"`+strings.Repeat("x", 50_000)+`"`)
		}
		ask(t, c, keys...)
		l.take()
		ask(t, c, keys...)
		for _, text := range l.take() {
			if n := len(strings.Fields(text)) - 1; n > 10 {
				t.Errorf("%d keys of 50 kB in one command", n)
			}
		}
	})
}

// A Redis user who may not read several keys at a time, or not one of them, reads
// the others.
func TestReadsOfAUserWithFewRights(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	admin := r.Client()
	for user, rights := range map[string]string{"get-only": "+@all -mget ~*", "one-key-less": "+@all ~item:?"} {
		admin.Do(t.Context(), append([]any{"ACL", "SETUSER", user, "on", ">pw"}, anys(strings.Fields(rights))...)...)
		c := open(t, aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{Hosts: []string{r.Addr}, Username: user, Password: "pw"}})
		var wg sync.WaitGroup
		for i := range 200 {
			id := fmt.Sprint(i % 10)
			admin.Set(t.Context(), "item:"+id, `"v"`, time.Minute)
			if i%10 == 9 {
				id = "forbidden"
			}
			wg.Go(func() {
				for range 20 {
					v, err := aside.GetOrLoad(t.Context(), c, items.Key(id), func(context.Context) (string, error) { return "loaded", nil })
					if want := map[bool]string{true: "v", false: "loaded"}[id != "forbidden"]; v != want || err != nil {
						t.Errorf("%s: %s is %q, %v", user, id, v, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

func anys(texts []string) (out []any) {
	for _, s := range texts {
		out = append(out, s)
	}
	return out
}

// Those who wait when the Cache is closed, for their reads or for their leases, are not
// left waiting.
func TestCloseWhileTheyWait(t *testing.T) {
	t.Parallel()
	for _, reading := range []time.Duration{0, 3 * time.Millisecond} {
		overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
			time.AfterFunc(reading, func() { l.hang(true) })
			synctest.Wait()
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					v, err := aside.GetOrLoad(t.Context(), c, items.Key(fmt.Sprint(i)), func(context.Context) (string, error) { return "loaded", nil })
					if v != "loaded" && !errors.Is(err, aside.ErrClosed) {
						t.Errorf("got %q, %v", v, err)
					}
				})
			}
			time.Sleep(10 * time.Millisecond)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			start := time.Now()
			wg.Wait()
			if d := time.Since(start); d > 250*time.Millisecond {
				t.Errorf("they went on for %v", d)
			}
		})
	}
}
