package aside_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

// nearCache opens a Cache with a near cache, and waits until it serves from it.
func nearCache(t *testing.T, addr string, cfg aside.Config) aside.Cache {
	t.Helper()
	cfg.NearMaxBytes = 1 << 20
	c := overRedis(t, addr, cfg)
	serves(t, c)
	return c
}

// serves waits until hits come from the near cache.
func serves(t *testing.T, c aside.Cache) {
	t.Helper()
	redistest.Eventually(t, "the near cache serves", func() bool {
		before := asideStats(t, c).NearHits
		for range 2 {
			must(aside.GetOrLoad(t.Context(), c, aside.ChatMessages("probe"), func(context.Context) (string, error) { return "v", nil }))
		}
		return asideStats(t, c).NearHits > before
	})
}

func becomes(t *testing.T, c aside.Cache, want string) {
	t.Helper()
	redistest.Eventually(t, "the value is "+want, func() bool {
		return read(t, c, func(context.Context) (string, error) { return want, nil }) == want
	})
}

func TestNear_HitsDoNotAskRedis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	for _, cfg := range []aside.Config{{}, {KeyPrefix: "app:"}, {KeyPrefix: "{app}:"}, {Redis: aside.Redis{DB: 3}}} {
		c := nearCache(t, r.Addr, cfg)
		becomes(t, c, "v")
		// The news of the fill may come in between.
		redistest.Eventually(t, "a hundred hits are near and ask for nothing", func() bool {
			near, asked := asideStats(t, c).NearHits, gets(t, r)
			for range 100 {
				read(t, c, fails(t))
			}
			return asideStats(t, c).NearHits == near+100 && gets(t, r) == asked
		})
	}
}

// gets is how many GETs and MGETs the server has carried out.
func gets(t *testing.T, r *redistest.Server) string {
	stats := r.Client().Info(t.Context(), "commandstats").Val()
	var out []string
	for line := range strings.Lines(stats) {
		if strings.HasPrefix(line, "cmdstat_get:") || strings.HasPrefix(line, "cmdstat_mget:") {
			calls, _, _ := strings.Cut(line, ",")
			out = append(out, calls)
		}
	}
	return strings.Join(out, " ")
}

// A change by another process or program is visible soon, however it is made.
func TestNear_OthersChangesAreHeard(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	client := r.Client()
	changes := map[string]func(t *testing.T, other aside.Cache){
		"SETEX":    func(t *testing.T, _ aside.Cache) { client.Set(t.Context(), room.String(), `"new"`, time.Minute) },
		"DEL":      func(t *testing.T, _ aside.Cache) { client.Del(t.Context(), room.String()) },
		"UNLINK":   func(t *testing.T, _ aside.Cache) { client.Unlink(t.Context(), room.String()) },
		"FLUSHALL": func(t *testing.T, _ aside.Cache) { client.FlushAll(t.Context()) },
		"expiry":   func(t *testing.T, _ aside.Cache) { client.PExpire(t.Context(), room.String(), time.Millisecond) },
		"Clear":    func(t *testing.T, other aside.Cache) { _ = other.Clear(t.Context()) },
		"Set": func(t *testing.T, other aside.Cache) {
			_ = other.Set(t.Context(), room.String(), []byte(`"new"`), time.Minute)
		},
	}
	for name, write := range writes {
		changes[name] = write
	}
	c, other := nearCache(t, r.Addr, aside.Config{}), overRedis(t, r.Addr, aside.Config{})
	for name, change := range changes {
		client.Set(t.Context(), room.String(), `"old"`, time.Minute)
		becomes(t, c, "old")
		read(t, c, fails(t))
		change(t, other)
		t.Log(name)
		becomes(t, c, "new")
		read(t, c, fails(t))
		if err := aside.Invalidate(t.Context(), c, room); err != nil {
			t.Fatal(err)
		}
	}
}

// This process never serves a value from before its own change.
func TestNear_OnesOwnChangesAreSeenAtOnce(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	c := nearCache(t, r.Addr, aside.Config{})
	var version atomic.Int64 // the database
	load := func(context.Context) (int64, error) { return version.Load(), nil }
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 { // they keep the near cache warm, and old answers on their way
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				before := version.Load()
				if got, err := aside.GetOrLoad(context.Background(), c, room, load); got < before-1 || err != nil {
					t.Errorf("read %d when it was %d: %v", got, before, err)
				}
			}
		})
	}
	for i := int64(0); i < 500 || i < 50_000 && asideStats(t, c).NearHits < 100; i++ {
		want := i + 1
		write := func(context.Context) error {
			version.Store(want)
			if i%2 > 0 {
				return nil
			}
			// While an Update runs, nobody is served what others are not.
			for range 2 {
				if got := must(aside.GetOrLoad(t.Context(), c, room, load)); got < want {
					t.Errorf("read %d when %d was committed", got, want)
				}
			}
			return nil
		}
		if i%2 == 0 {
			if err := aside.Update(t.Context(), c, write, room); err != nil {
				t.Fatal(err)
			}
		} else if _, err := write(t.Context()), aside.Invalidate(t.Context(), c, room); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got := must(aside.GetOrLoad(t.Context(), c, room, load)); got < want {
				t.Fatalf("read %d after %d was written", got, want)
			}
		}
	}
	close(stop)
	readers.Wait()
	if n := asideStats(t, c).NearHits; n < 100 {
		t.Errorf("%d near hits: it tests nothing", n)
	}
}

// When the connection that carries invalidations breaks, everything is dropped: what
// changes meanwhile is not said.
func TestNear_ABrokenConnectionDropsEverything(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	client := r.Client()
	c := nearCache(t, r.Addr, aside.Config{})
	for i := range 5 {
		old, want := fmt.Sprint("old", i), fmt.Sprint("new", i)
		client.Set(t.Context(), room.String(), fmt.Sprintf("%q", old), time.Minute)
		becomes(t, c, old)
		read(t, c, fails(t))
		// In one script nothing comes between: the change is not said.
		if err := client.Watch(t.Context(), func(tx *redis.Tx) error {
			_, err := tx.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
				p.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
				p.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub")
				p.Set(t.Context(), room.String(), fmt.Sprintf("%q", want), time.Minute)
				return nil
			})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		becomes(t, c, want)
		t.Logf("after %v", time.Since(start))
		serves(t, c)
	}
}

// stallable is a connection that goes silent when it is the one that carries
// invalidations and is told to.
type stallable struct {
	net.Conn
	stalled  *atomic.Bool
	tracking atomic.Bool
}

func (s *stallable) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("tracking")) {
		s.tracking.Store(true)
	}
	return s.Conn.Write(p)
}

func (s *stallable) Read(p []byte) (int, error) {
	for {
		n, err := s.Conn.Read(p)
		if err != nil || !s.tracking.Load() || !s.stalled.Load() {
			return n, err
		}
	}
}

// A connection that goes silent is found out, and nothing is served meanwhile for
// longer than that takes.
func TestNear_ASilentConnectionIsFoundOut(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	var stalled atomic.Bool
	client := redis.NewClient(&redis.Options{Addr: r.Addr, Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		return &stallable{Conn: conn, stalled: &stalled}, err
	}})
	defer client.Close()
	said := make(chan string, 10)
	c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second, NearMaxBytes: 1 << 20, Logger: slog.New(says{slog.DiscardHandler, said})}))
	defer c.Close()
	becomes(t, c, "old")
	serves(t, c)
	for len(said) > 0 { // of a time in which this process stood still
		<-said
	}
	stalled.Store(true)
	client.Set(t.Context(), room.String(), `"new"`, time.Minute)
	hears(t, said, "near cache disabled")
	if got := read(t, c, fails(t)); got != "new" {
		t.Errorf("read %q after the silence was found out", got)
	}
	stalled.Store(false)
	hears(t, said, "near cache enabled again")
	serves(t, c)
}

func hears(t *testing.T, said <-chan string, want string) {
	t.Helper()
	redistest.Eventually(t, want, func() bool {
		select {
		case got := <-said:
			return strings.Contains(got, want)
		default:
			return false
		}
	})
}

// says is a log handler that sends on what is said.
type says struct {
	slog.Handler
	said chan string
}

func (s says) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (s says) Handle(_ context.Context, r slog.Record) error {
	s.said <- r.Message
	return nil
}

// Redis restarted, empty: nothing of before is served.
func TestNear_RestartOfRedis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	c := nearCache(t, r.Addr, aside.Config{Timeout: 250 * time.Millisecond})
	read(t, c, func(context.Context) (string, error) { return "old", nil })
	read(t, c, func(context.Context) (string, error) { return "old", nil })
	r.Kill()
	becomes(t, c, "new")
	r.Start()
	becomes(t, c, "newer")
	serves(t, c)
}

// A user who may not track, or whose Redis is away, has no near cache, and no
// trouble.
func TestNear_WithoutTheRightToTrack(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	r.Client().Do(t.Context(), "ACL", "SETUSER", "u", "on", ">pw", "+@all", "-client|tracking", "~*")
	c := overRedis(t, r.Addr, aside.Config{NearMaxBytes: 1 << 20, Redis: aside.Redis{Username: "u", Password: "pw"}})
	for range 10 {
		read(t, c, func(context.Context) (string, error) { return "v", nil })
	}
	if s := asideStats(t, c); s.NearHits != 0 || s.Hits != 9 {
		t.Errorf("%d near hits, %d hits", s.NearHits, s.Hits)
	}
}
