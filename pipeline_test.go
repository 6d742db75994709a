package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
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
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

func itemKeys(name string, n int) (keys []aside.Key) {
	for i := range n {
		keys = append(keys, items.Key(fmt.Sprint(name, i)))
	}
	return keys
}

func TestMissesAtOnceShareRoundTrips(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		keys := itemKeys("cold", 300)
		start := time.Now()
		ask(t, c, keys...)
		if d := time.Since(start); d > 20*time.Millisecond {
			t.Errorf("misses of three round trips of 2ms took %v", d)
		}
		sent := l.take()
		if len(sent) > 100 {
			t.Errorf("300 misses were sent as %d commands: %q", len(sent), sent)
		}
		for _, text := range sent {
			var n int
			if _, err := fmt.Sscanf(text, "pipeline of %d", &n); err == nil && n > 64 {
				t.Errorf("%d scripts went together", n)
			}
		}
		for _, key := range keys {
			if got, _ := server.Get(key.String()); got != `"loaded"` {
				t.Errorf("%s is stored as %q", key, got)
			}
		}
	})
}

// Large values are stored few at a time.
func TestLargeValuesAreStoredFewAtATime(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		large := func(context.Context) (string, error) {
			time.Sleep(20 * time.Millisecond)
			return strings.Repeat("x", 100_000), nil
		}
		var wg sync.WaitGroup
		for _, key := range itemKeys("large", 100) {
			wg.Go(func() { must(aside.GetOrLoad(t.Context(), c, key, large)) })
		}
		time.Sleep(15 * time.Millisecond)
		l.take()
		wg.Wait()
		for _, text := range l.take() {
			if strings.HasPrefix(text, "pipeline") && text != "pipeline of 1" && text != "pipeline of 2" {
				t.Errorf("of values of 100 kB, a %s", text)
			}
		}
	})
}

// However many leases are asked for when Redis hangs, each call pays one budget at
// most.
func TestP5_AHungPipelineCostsOneBudget(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		time.AfterFunc(3*time.Millisecond, func() { l.hang(true) }) // the reads are over
		start := time.Now()
		ask(t, c, itemKeys("cold", 500)...)
		if d := time.Since(start); d > 255*time.Millisecond {
			t.Errorf("the last call took %v", d)
		}
		l.hang(false)
		time.Sleep(time.Second)
		warm := itemKeys("warm", 1)
		ask(t, c, warm...)
		if got, _ := server.Get(warm[0].String()); got != `"loaded"` {
			t.Errorf("when Redis is back, %q is stored", got)
		}
	})
}

// A Redis that is too slow for what it is asked is not asked for leases that nobody
// waits for any more.
func TestLeasesThatNobodyWaitsForAreNotAskedFor(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		l.arrives = func(text string) {
			if strings.HasPrefix(text, "pipeline") || strings.HasPrefix(text, "eval") {
				time.Sleep(200 * time.Millisecond)
			}
		}
		ask(t, c, itemKeys("cold", 4000)...)
		time.Sleep(time.Second)
		n := 0
		for _, text := range l.take() {
			if strings.HasPrefix(text, "pipeline") {
				n++
			}
		}
		if n > 40 { // of 62; there are 16 lanes
			t.Errorf("%d times leases were asked for", n)
		}
	})
}

// missTogether has keys miss at once, and returns how many were not stored.
func missTogether(t *testing.T, c aside.Cache, client *redis.Client, keys []aside.Key) (missing int) {
	var wg sync.WaitGroup
	for _, key := range keys {
		wg.Go(func() {
			v, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return "loaded", nil })
			if v != "loaded" || err != nil {
				t.Errorf("%s is %q, %v", key, v, err)
			}
		})
	}
	wg.Wait()
	aside.AwaitFills(c)
	for _, key := range keys {
		if client.Get(t.Context(), key.String()).Val() != `"loaded"` {
			missing++
		}
	}
	return missing
}

// A Redis that has forgotten the scripts, as after a restart, is told them, and
// each of those that went together is carried out.
func TestScriptsThatRedisForgot(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { client.Close() })
	c := open(t, aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{Hosts: []string{server.Addr()}}})
	for round := range 50 {
		forget := make(chan struct{})
		go func() { defer close(forget); client.ScriptFlush(t.Context()) }()
		start := time.Now()
		if n := missTogether(t, c, client, itemKeys(fmt.Sprint(round, "-"), 40)); n > 0 && time.Since(start) < 2*time.Second { // else leases have lapsed
			t.Fatalf("%d of 40 values were not stored", n)
		}
		<-forget
	}
}

// Where a Redis user has no right to one of the leases, the others are not harmed.
func TestScriptsOfAUserWithFewRights(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	admin := r.Client()
	admin.Do(t.Context(), "ACL", "SETUSER", "some", "on", ">pw", "+@all", "~item:*", "~{item:ok*")
	c := open(t, aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{Hosts: []string{r.Addr}, Username: "some", Password: "pw"}})
	for round := range 20 {
		keys := itemKeys(fmt.Sprint("ok", round, "-"), 40)
		keys[20] = items.Key("forbidden")
		start := time.Now()
		if n := missTogether(t, c, admin, keys); n != 1 && time.Since(start) < 2*time.Second { // else leases have lapsed
			t.Errorf("%d of 40 values were not stored", n)
		}
	}
}

// carrier is a hook of a client that says how commands and pipelines are carried.
type carrier struct {
	one  func(ctx context.Context, text string) error // before a command is sent, if that is to be
	many func(ctx context.Context, text string, n int) error
}

func (c *carrier) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *carrier) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := c.one(ctx, fmt.Sprint(cmd.Args())); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (c *carrier) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var text strings.Builder
		for _, cmd := range cmds {
			fmt.Fprintln(&text, cmd.Args())
		}
		if err := c.many(ctx, text.String(), len(cmds)); err != nil {
			return err
		}
		return next(ctx, cmds)
	}
}

// carried runs test in a bubble, with a Cache whose commands take a millisecond, and
// from then on what the carrier is told.
func carried(t *testing.T, cfg aside.Config, test func(t *testing.T, c aside.Cache, by *carrier)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, l := miniredis.NewMiniRedis(), &line{}
		defer server.Close()
		by := &carrier{
			one:  func(context.Context, string) error { time.Sleep(time.Millisecond); return nil },
			many: func(context.Context, string, int) error { time.Sleep(time.Millisecond); return nil },
		}
		client := redis.NewClient(l.options(server))
		client.AddHook(by)
		c := must(aside.NewRedis(client, cfg))
		defer func() { c.Close(); client.Close() }()
		ask(t, c, itemKeys("warm up", 40)...)
		test(t, c, by)
	})
}

// A claim that its caller gives up on leaves nothing, however many leases are asked
// for at the time.
func TestAClaimIsNotOvertakenByItsRelease(t *testing.T) {
	carried(t, aside.Config{}, func(t *testing.T, c aside.Cache, by *carrier) {
		ctx, giveUp := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer giveUp()
		var claimed atomic.Bool
		slow := func(text string) {
			time.Sleep(time.Millisecond)
			if strings.Contains(text, "eval") && strings.Contains(text, "generation:room") && claimed.CompareAndSwap(false, true) {
				giveUp()
				time.Sleep(3 * time.Millisecond)
			}
		}
		by.one = func(_ context.Context, text string) error { slow(text); return nil }
		by.many = func(_ context.Context, text string, _ int) error { slow(text); return nil }
		generations := must(aside.NewGenerations(c))
		var loads sync.WaitGroup
		loads.Go(func() { ask(t, c, itemKeys("cold", 5000)...) })
		defer loads.Wait()
		time.Sleep(4 * time.Millisecond)
		if _, err := generations.Start(ctx, "room"); err == nil || !claimed.Load() {
			t.Errorf("it started, with %v, or claimed nothing", err)
		}
		time.Sleep(10 * time.Second)
		if running, err := generations.Running(t.Context(), "room"); running || err != nil {
			t.Errorf("running is %v, %v", running, err)
		}
	})
}

// A pipeline that is lost, while Redis answers others, is one failure.
func TestALostPipelineIsOneFailure(t *testing.T) {
	var log logtest.Buffer
	carried(t, aside.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, c aside.Cache, by *carrier) {
		var lost atomic.Bool
		by.many = func(ctx context.Context, _ string, n int) error {
			if n >= 5 && lost.CompareAndSwap(false, true) {
				<-ctx.Done()
				return ctx.Err()
			}
			time.Sleep(time.Millisecond)
			return nil
		}
		var others sync.WaitGroup
		others.Go(func() {
			for i := range 400 {
				ask(t, c, items.Key(fmt.Sprint("other", i)))
			}
		})
		ask(t, c, itemKeys("cold", 3000)...)
		others.Wait()
		if !lost.Load() || strings.Contains(log.String(), "does not answer") {
			t.Errorf("lost is %v, and the log %s", lost.Load(), log.String())
		}
	})
}

// Leases do not wait for large values.
func TestALeaseDoesNotWaitForLargeValues(t *testing.T) {
	carried(t, aside.Config{}, func(t *testing.T, c aside.Cache, by *carrier) {
		carry := func(ctx context.Context, text string) error {
			time.Sleep(time.Millisecond + time.Duration(len(text))*50*time.Nanosecond) // 20 MB/s
			return ctx.Err()
		}
		by.one = carry
		by.many = func(ctx context.Context, text string, _ int) error { return carry(ctx, text) }
		large := backend.Fill{Value: []byte(strings.Repeat("7", 400_000)), TTL: time.Minute}
		var fills sync.WaitGroup
		for i := range 200 {
			fills.Go(func() { _, _ = backendOf(c).Fill(t.Context(), fmt.Sprint("item:large", i), "token", large) })
		}
		time.Sleep(5 * time.Millisecond)
		start := time.Now()
		if _, err := backendOf(c).Lease(t.Context(), "item:small", backend.LeaseRequest{TTL: time.Second}); err != nil || time.Since(start) > 5*time.Millisecond {
			t.Errorf("it took %v, and %v", time.Since(start), err)
		}
		fills.Wait()
	})
}

// A hook of the client that refuses a pipeline has not stored anything.
func TestAHookThatRefusesAPipeline(t *testing.T) {
	carried(t, aside.Config{}, func(t *testing.T, c aside.Cache, by *carrier) {
		refused := errors.New("refused")
		var refusals atomic.Int32
		by.many = func(context.Context, string, int) error { refusals.Add(1); return refused }
		var tokens []string
		for i := range 60 {
			tokens = append(tokens, must(backendOf(c).Lease(t.Context(), fmt.Sprint("item:", i), backend.LeaseRequest{TTL: time.Second})).Token)
		}
		var fills sync.WaitGroup
		for i, token := range tokens {
			fills.Go(func() {
				if ok, err := backendOf(c).Fill(t.Context(), fmt.Sprint("item:", i), token, backend.Fill{Value: []byte("1"), TTL: time.Minute}); !ok && !errors.Is(err, refused) {
					t.Errorf("a fill that was not sent: %v, %v", ok, err)
				}
			})
		}
		fills.Wait()
		if refusals.Load() == 0 {
			t.Error("nothing was refused")
		}
	})
}

// A hook of the client that panics, or ends its goroutine, takes nobody's place for good.
func TestAHookThatPanics(t *testing.T) {
	for _, command := range []string{"[eval", "[get", "[eval, and exits", "[get, and exits"} {
		command, exits := strings.CutSuffix(command, ", and exits")
		t.Run(fmt.Sprint(command, exits), func(t *testing.T) {
			const slow = 150 * time.Millisecond // longer than a silence, which is a third of the timeout
			carried(t, aside.Config{Timeout: 300 * time.Millisecond}, func(t *testing.T, c aside.Cache, by *carrier) {
				var panics atomic.Int32
				by.one = func(_ context.Context, text string) error {
					time.Sleep(time.Millisecond)
					if strings.HasPrefix(text, command) && panics.Load() < 16 {
						if panics.Add(1); exits {
							runtime.Goexit()
						}
						panic("a hook")
					}
					return nil
				}
				for range 16 {
					var caller sync.WaitGroup
					caller.Go(func() {
						defer func() { _ = recover() }()
						if command == "[get" {
							ask1(t, c, items.Key("1"))
						} else {
							_, _ = backendOf(c).Fill(t.Context(), "item:1", "token", backend.Fill{Value: []byte("1"), TTL: time.Minute})
						}
					})
					caller.Wait()
				}
				time.Sleep(time.Minute)
				start := time.Now()
				if got := ask1(t, c, items.Key("2")); got != "loaded" || panics.Load() != 16 {
					t.Errorf("after %d panics, got %q", panics.Load(), got)
				}
				if d := time.Since(start); d > 10*time.Millisecond {
					t.Errorf("a miss took %v", d)
				}
				if _, ok, err := c.Get(t.Context(), "item:2"); !ok || err != nil {
					t.Errorf("it was not stored: %v", err)
				}

				// If those that panicked counted as on their way, three slow commands would
				// be a crowd that waits for a silent Redis, and open the breaker.
				time.Sleep(time.Minute)
				by.one = func(context.Context, string) error { time.Sleep(slow); return nil }
				var gets sync.WaitGroup
				for range 4 {
					gets.Go(func() {
						if _, _, err := c.Get(t.Context(), "item:2"); err != nil {
							t.Errorf("after the panics, a slow command: %v", err)
						}
					})
					time.Sleep(slow * 2 / 5)
				}
				gets.Wait()
			})
		})
	}
}

// ask1 is ask in the test's own goroutine.
func ask1(t *testing.T, c aside.Cache, key aside.Key) string {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	v, err := aside.GetOrLoad(ctx, c, key, func(context.Context) (string, error) { return "loaded", nil })
	if err != nil {
		t.Error(err)
	}
	aside.AwaitFills(c)
	return v
}
