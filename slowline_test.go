package aside_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/logtest"
)

// slowLine carries so many bytes a second to a Redis in the same bubble, and from it: on
// each connection, or on all of them together.
type slowLine struct {
	perSecond int
	together  bool
	mu        sync.Mutex
	free      time.Time // when it has carried what was sent before
	sent      atomic.Int64
}

// slowConn takes replies from the server at once, as it holds a lock while it writes them,
// and hands them on at the line's pace.
type slowConn struct {
	net.Conn
	line        *slowLine
	in, out     time.Time
	read, write atomic.Pointer[time.Time] // deadlines

	mu      sync.Mutex
	arrived []byte
	err     error
	more    chan struct{}
}

func (c *slowConn) pump() {
	p := make([]byte, 64<<10)
	for {
		n, err := c.Conn.Read(p)
		c.mu.Lock()
		c.arrived = append(c.arrived, p[:n]...)
		c.err = err
		c.mu.Unlock()
		select {
		case c.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// carry waits until n more bytes have arrived.
func (c *slowConn) carry(n int, own *time.Time) {
	l := c.line
	l.mu.Lock()
	free := own
	if l.together {
		free = &l.free
	}
	if now := time.Now(); free.Before(now) {
		*free = now
	}
	*free = free.Add(time.Duration(n) * time.Second / time.Duration(l.perSecond))
	at := *free
	l.mu.Unlock()
	time.Sleep(time.Until(at))
}

func (c *slowConn) Read(p []byte) (int, error) {
	var late <-chan time.Time
	if d := c.read.Load(); d != nil && !d.IsZero() {
		timer := time.NewTimer(time.Until(*d))
		defer timer.Stop()
		late = timer.C
	}
	for {
		select {
		case <-late:
			return 0, os.ErrDeadlineExceeded
		default:
		}
		c.mu.Lock()
		n, err := copy(p[:min(len(p), 16<<10)], c.arrived), c.err
		c.arrived = c.arrived[n:]
		c.mu.Unlock()
		if n > 0 {
			c.carry(n, &c.in)
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		select {
		case <-c.more:
		case <-late:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (c *slowConn) SetDeadline(t time.Time) error {
	c.read.Store(&t)
	c.write.Store(&t)
	return nil
}

func (c *slowConn) SetReadDeadline(t time.Time) error  { c.read.Store(&t); return nil }
func (c *slowConn) SetWriteDeadline(t time.Time) error { c.write.Store(&t); return nil }

func (c *slowConn) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if d := c.write.Load(); d != nil && !d.IsZero() && time.Now().After(*d) {
			return n, os.ErrDeadlineExceeded
		}
		some := p[n:min(len(p), n+16<<10)]
		c.carry(len(some), &c.out)
		m, err := c.Conn.Write(some)
		c.line.sent.Add(int64(m))
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

var raw = aside.Keyspace{Name: "raw", Codec: aside.Bytes, TTL: time.Hour}

// overSlowLine runs test in a bubble, with a Cache that has a Redis at the end of a slow
// line, and what it logs.
func overSlowLine(t *testing.T, l *slowLine, test func(t *testing.T, c aside.Cache, client *redis.Client, server *miniredis.Miniredis, log *logtest.Buffer)) {
	synctest.Test(t, func(t *testing.T) {
		server := miniredis.NewMiniRedis()
		defer server.Close()
		o := (&line{}).options(server)
		o.PoolTimeout = time.Minute
		dial := o.Dialer
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			c := &slowConn{Conn: conn, line: l, more: make(chan struct{}, 1)}
			go c.pump()
			return c, nil
		}
		client := redis.NewClient(o)
		defer client.Close()
		var log logtest.Buffer
		c := must(aside.NewRedis(client, aside.Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), DecodedMaxBytes: -1}))
		defer c.Close()
		test(t, c, client, server, &log)
	})
}

// readAll reads keys at once, and returns how many were loaded.
func readAll(t *testing.T, c aside.Cache, keys []aside.Key) (loads int64) {
	var n atomic.Int64
	var wg sync.WaitGroup
	for _, key := range keys {
		wg.Go(func() {
			_, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) ([]byte, error) { n.Add(1); return []byte("loaded"), nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return n.Load()
}

// A line that is slow, and a Redis that is well: large values that are read at once are
// served, in a process that has just started, and in one that knows them.
func TestLargeValuesOverASlowLine(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]*slowLine{
		"10 MB/s a connection": {perSecond: 10e6},
		"100 MB/s together":    {perSecond: 100e6, together: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			overSlowLine(t, l, func(t *testing.T, c aside.Cache, client *redis.Client, server *miniredis.Miniredis, log *logtest.Buffer) {
				var keys []aside.Key
				for i := range 300 {
					keys = append(keys, raw.Key(fmt.Sprint(i)))
					_ = server.Set(keys[i].String(), strings.Repeat("x", 512<<10))
				}
				for _, what := range []string{"that has just started", "that knows them"} {
					start := time.Now()
					if n := readAll(t, c, keys); n > 0 {
						t.Errorf("a process %s: %d of 300 reads missed, after %v", what, n, time.Since(start))
					}
				}
				if log.String() != "" {
					t.Errorf("logged %s", log.String())
				}
			})
		})
	}
}

// Small reads do not wait for large ones, nor does the breaker take these for silence.
func TestSmallReadsDoNotWaitForLargeOnes(t *testing.T) {
	t.Parallel()
	overSlowLine(t, &slowLine{perSecond: 20e6}, func(t *testing.T, c aside.Cache, client *redis.Client, server *miniredis.Miniredis, log *logtest.Buffer) {
		var large, small []aside.Key
		for i := range 20 {
			large = append(large, raw.Key(fmt.Sprint("large", i)))
			_ = server.Set(large[i].String(), strings.Repeat("x", 4<<20)) // 210 ms
		}
		for i := range 200 {
			small = append(small, raw.Key(fmt.Sprint("small", i)))
			_ = server.Set(small[i].String(), "x")
		}
		readAll(t, c, small)
		readAll(t, c, large)
		for range 5 {
			readAll(t, c, small)
		}
		done := make(chan struct{})
		go func() { defer close(done); readAll(t, c, large) }()
		time.Sleep(10 * time.Millisecond)
		for range 200 {
			start := time.Now()
			if n := readAll(t, c, small[:20]); n > 0 {
				t.Fatalf("%d small reads missed", n)
			}
			if d := time.Since(start); d > time.Millisecond {
				t.Fatalf("small reads took %v", d)
			}
			time.Sleep(time.Millisecond)
		}
		<-done
		if log.String() != "" {
			t.Errorf("logged %s", log.String())
		}
	})
}

// A value that takes longer than the budget to store, or to read, while Redis answers all
// else, is told of and counted, left alone for a while, and tried again.
func TestAValueThatTakesLongerThanTheBudget(t *testing.T) {
	t.Parallel()
	value := bytes.Repeat([]byte("x"), 8<<20) // 350 ms
	key := raw.Key("large")
	load := func(context.Context) ([]byte, error) { return value, nil }
	t.Run("to store", func(t *testing.T) {
		l := &slowLine{perSecond: 24e6}
		overSlowLine(t, l, func(t *testing.T, c aside.Cache, client *redis.Client, server *miniredis.Miniredis, log *logtest.Buffer) {
			for range 20 {
				must(aside.GetOrLoad(t.Context(), c, key, load))
				aside.AwaitFills(c)
				time.Sleep(10 * time.Millisecond)
			}
			if n := l.sent.Load(); n > 20<<20 {
				t.Errorf("20 reads sent %d bytes", n)
			}
			if lines := strings.TrimSpace(log.String()); strings.Count(lines, "\n") != 0 || !strings.Contains(lines, key.String()) {
				t.Errorf("logged %q, want a line", lines)
			}
			aside.AwaitFills(c)
			if n := asideStats(t, c).EncodeErrors; n != 20 {
				t.Errorf("EncodeErrors %d, want 20", n)
			}
			time.Sleep(time.Minute)
			l.perSecond = 1e9
			must(aside.GetOrLoad(t.Context(), c, key, load))
			aside.AwaitFills(c)
			if !server.Exists(key.String()) {
				t.Error("when the line is quick, it is not stored")
			}
		})
	})
	t.Run("to read", func(t *testing.T) {
		l := &slowLine{perSecond: 24e6}
		overSlowLine(t, l, func(t *testing.T, c aside.Cache, client *redis.Client, server *miniredis.Miniredis, log *logtest.Buffer) {
			_ = server.Set(key.String(), string(value))
			start := time.Now()
			for range 20 {
				must(aside.GetOrLoad(t.Context(), c, key, load))
				aside.AwaitFills(c)
				time.Sleep(10 * time.Millisecond)
			}
			if d := time.Since(start); d > 1200*time.Millisecond {
				t.Errorf("20 reads took %v", d)
			}
			if lines := strings.TrimSpace(log.String()); strings.Count(lines, "\n") != 0 || !strings.Contains(lines, key.String()) {
				t.Errorf("logged %q, want a line", lines)
			}
			time.Sleep(time.Minute)
			l.perSecond = 1e9
			before := asideStats(t, c).Hits
			must(aside.GetOrLoad(t.Context(), c, key, load))
			if asideStats(t, c).Hits == before {
				t.Error("when the line is quick, it is not read")
			}
		})
	})
}

// A small value that was late twice, as Redis stood still for a moment, is no large one: it
// is read again as soon as Redis answers.
func TestASmallValueThatIsLateIsReadAgain(t *testing.T) {
	t.Parallel()
	logger, log := logged()
	overLine(t, aside.Config{Logger: logger}, func(t *testing.T, c aside.Cache, l *line, _ *miniredis.Miniredis) {
		late, other := items.Key("late"), items.Key("other")
		ask(t, c, late, other)
		l.hang(true)
		ask(t, c, late)
		l.hang(false)
		ask(t, c, other)
		l.hang(true)
		time.AfterFunc(200*time.Millisecond, func() { l.hang(false) }) // before that read's time is over
		ask(t, c, late)
		time.Sleep(time.Second)
		before := asideStats(t, c).Hits
		for range 5 {
			ask(t, c, late)
		}
		if n := asideStats(t, c).Hits - before; n != 5 {
			t.Errorf("%d hits of 5 reads", n)
		}
		if log.String() != "" {
			t.Errorf("logged:\n%s", log)
		}
	})
}

// A batch that fails, as the answer is too much for what is in between, goes again in
// pieces, and is one failure.
func TestABatchThatFailsGoesAgainInPieces(t *testing.T) {
	carried(t, aside.Config{Logger: slog.New(slog.DiscardHandler)}, func(t *testing.T, c aside.Cache, by *carrier) {
		keys := itemKeys("warm up", 40) // carried has stored them
		var refused atomic.Int32
		by.one = func(_ context.Context, text string) error {
			time.Sleep(time.Millisecond)
			if strings.HasPrefix(text, "[mget") && len(strings.Fields(text)) > 2*4 { // a key is two words
				refused.Add(1)
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		var loads atomic.Int32
		var wg sync.WaitGroup
		for _, key := range keys {
			wg.Go(func() {
				_, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { loads.Add(1); return "loaded", nil })
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if loads.Load() > 0 || refused.Load() < 3 {
			t.Errorf("%d of 40 reads missed, and %d batches were refused", loads.Load(), refused.Load())
		}
	})
}
