package aside_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
)

// mostKeys returns the largest number of KEYS that a script was sent with.
func mostKeys(sent []string) (most int) {
	for _, text := range sent {
		if words := strings.Fields(text); len(words) > 2 && words[0] == "evalsha" {
			n, _ := strconv.Atoi(words[2])
			most = max(most, n)
		}
	}
	return most
}

// Work whose size the caller chooses goes in pieces that hold Redis for a moment each, and
// has its budget anew after each of them.
func TestLarge_GoesInPieces(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(t *testing.T, c aside.Cache, keys []aside.Key) error{
		"Invalidate": func(t *testing.T, c aside.Cache, keys []aside.Key) error {
			return aside.Invalidate(t.Context(), c, keys...)
		},
		"Update": func(t *testing.T, c aside.Cache, keys []aside.Key) error {
			return aside.Update(t.Context(), c, func(ctx context.Context) error {
				select {
				case <-time.After(30 * time.Second): // the blocks are renewed several times
				case <-ctx.Done():
				}
				if l := must(backendOf(c).Lease(ctx, keys[len(keys)-1].String(), backend.LeaseRequest{TTL: time.Second})); l.State != backend.Writing {
					t.Errorf("after 30 s of a write, a lease on the last key is %v, want writing", l.State)
				}
				return context.Cause(ctx)
			}, keys...)
		},
	} {
		overLine(t, aside.Config{Timeout: 20 * time.Millisecond}, func(t *testing.T, c aside.Cache, l *line, _ *miniredis.Miniredis) {
			keys := itemKeys("large ", 3000) // 15 pieces of 2 ms each
			if err := write(t, c, keys); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if n := mostKeys(l.take()); n == 0 || n > 600 {
				t.Errorf("%s: a script had %d keys, want 600 at most: a value's, its lease's and its blocks'", name, n)
			}
			if s := asideStats(t, c); s.InvalidationQueued != 0 {
				t.Errorf("%s: %d invalidations were queued on a Redis that answers", name, s.InvalidationQueued)
			}
		})
	}
}

// Those who wait behind others' invalidations have their budget still when it is their turn.
func TestLarge_ManyInvalidationsAtOnceQueueNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, l := miniredis.NewMiniRedis(), &line{}
		defer server.Close()
		o := l.options(server)
		o.PoolSize = 8
		client := redis.NewClient(o)
		defer client.Close()
		client.AddHook(l)
		c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Millisecond}))
		defer c.Close()
		var all sync.WaitGroup
		for _, key := range itemKeys("many ", 2000) {
			all.Go(func() {
				if err := aside.Invalidate(t.Context(), c, key); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if s := asideStats(t, c); s.InvalidationQueued != 0 {
			t.Errorf("%d invalidations were queued on a Redis that answers", s.InvalidationQueued)
		}
	})
}

// An invalidation of any size, and any number of them at once, costs one budget on a backend
// that does not answer.
func TestLarge_CostsOneBudgetWhenNothingAnswers(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{Timeout: 20 * time.Millisecond}, func(t *testing.T, c aside.Cache, l *line, _ *miniredis.Miniredis) {
		l.hang(true)
		keys := itemKeys("large ", 3000)
		start := time.Now()
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if err := aside.Invalidate(t.Context(), c, keys...); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if took := time.Since(start); took > 45*time.Millisecond { // it waits for others' for one, and then knows
			t.Errorf("it took %v, with a budget of 20ms", took)
		}
		if !aside.Pending(c, keys[2999]) {
			t.Error("the last key is not pending")
		}
		l.hang(false)
	})
}

// When a piece is not answered, the rest is queued without being sent.
func TestLarge_NothingIsSentAfterAPieceThatIsNotAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		var sent atomic.Int32
		var down atomic.Bool
		down.Store(true)
		store.SetFault(func(_ context.Context, method string) error {
			if method == "Delete" && sent.Add(1) >= 1 && down.Load() {
				return errors.New("connection refused")
			}
			return nil
		})
		keys := itemKeys("large ", 3000)
		if err := aside.Invalidate(t.Context(), c, keys...); err != nil {
			t.Fatal(err)
		}
		if n := sent.Load(); n != 1 {
			t.Errorf("%d pieces were sent, want 1", n)
		}
		if !aside.Pending(c, keys[0]) || !aside.Pending(c, keys[2999]) {
			t.Error("the first key or the last is not pending")
		}
		down.Store(false)
		time.Sleep(time.Minute)
		if aside.Pending(c, keys...) {
			t.Error("a key is pending when the backend answers again")
		}
	})
}

// The signals of all the generations of a process are looked for together.
func TestLarge_ACancelReachesOneOfManyGenerationsInTime(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		gs := must(aside.NewGenerations(c))
		var all sync.WaitGroup
		chats := itemKeys("", 500)
		running := make([]*aside.Generation, len(chats))
		for i, chat := range chats {
			all.Go(func() { running[i] = must(gs.Start(t.Context(), chat.String())) })
		}
		all.Wait()
		time.Sleep(time.Second)
		l.take()
		time.Sleep(time.Second)
		if n := len(l.take()); n > 500 {
			t.Errorf("%d commands in a second look for 500 signals", n)
		}
		start := time.Now()
		if err := server.Set(aside.CancelKey(chats[250].String()).String(), "1"); err != nil {
			t.Fatal(err)
		}
		<-running[250].Context().Done()
		if took := time.Since(start); took > 250*time.Millisecond || !errors.Is(context.Cause(running[250].Context()), aside.ErrCancelled) {
			t.Errorf("it ended after %v with %v", took, context.Cause(running[250].Context()))
		}
		for _, g := range running {
			all.Go(g.Finish)
		}
		all.Wait()
	})
}
