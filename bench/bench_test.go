package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside/internal/redistest"
)

func TestMain(m *testing.M) {
	if isWorker() {
		work(os.Stdin, os.Stdout)
		return
	}
	os.Exit(m.Run())
}

// TestQuick runs each scenario as briefly as possible. Every library must work, and each table
// must have a figure for each library that belongs there.
func TestQuick(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]string{
		"hits":     {"## Hits from Redis", "| aside |", "| aside, RefreshAfter |", "| jetcache-go, remote |"},
		"near":     {"## Hits in near caches", "| rueidisaside |", "| jetcache-go, both |"},
		"memory":   {"## In memory", "### Caches of several sizes: µs a hit", "### Caches of several sizes: µs a miss", "### Hits of Zipf", "### Heap per entry", "| aside memory, Share |", "| aside memory, Share, RefreshAfter |", "| go-cache |"},
		"misses":   {"## Cold misses", "Redis 1ms away", "| aside, expected |", "| aside, not expected |", "| aside |", "| gocache |"},
		"lists":    {"## Lists", "| aside GetOrLoadMany |", "| sturdyc GetOrFetchBatch |"},
		"writes":   {"## Writes", "### Invalidating many keys", "| aside |", "| aside, Invalidate |", "| aside, Update |"},
		"stampede": {"## A stampede", "### One process", "### 2 processes", "| sturdyc |"},
		"burst":    {"## A burst of loads", "| aside |", "| aside, MaxLoads: 16 |"},
		"expiry":   {"## Reads around an expiry", "| aside, a value that does not end |", "| aside |", "| aside, RefreshAfter |", "| aside memory |", "| aside memory, Share, RefreshAfter |", "| sturdyc, early refreshes |", "| otter Get, RefreshWriting |"},
		"stale":    {"## Stale values", "| aside, Update |", "| rockscache, strong |"},
		"held":     {"## Stale values", "both processes hold", "| aside |", "| aside near |", "| aside near, Update |"},
		"trouble":  {"### Redis refuses", "### Redis hangs", "| aside |"},
	} {
		t.Run(name, func(t *testing.T) { // one after another: they would starve each other
			redistest.Require(t, "redis-server")
			page := quickRun(t, name)
			for _, text := range want {
				if !strings.Contains(page, text) {
					t.Errorf("the report has no %q", text)
				}
			}
		})
	}
}

// quickRun runs a scenario and returns its report, after a look at its picture.
func quickRun(t *testing.T, scenario string) string {
	t.Helper()
	dir := t.TempDir()
	var progress bytes.Buffer
	if err := run(t.Context(), []string{"-quick", "-only", "^" + scenario + "/", "-out", dir}, &progress); err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	picture, err := os.ReadFile(filepath.Join(dir, "docs", "benchmarks.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(picture)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture: %v", err)
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "docs", "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

func TestRun_RefusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-only", "("}, {"-only", "nothing is called this"}, {"-rounds", "-1"}, {"more"}, {"-what"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("run %q: no error", args)
		}
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		samples []float64
		want    float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 2, 100}, 3},
		{[]float64{math.Inf(1), math.Inf(1)}, math.Inf(1)},
	} {
		if got, ok := median(tt.samples); !ok || got != tt.want {
			t.Errorf("median(%v) = %v, %v, want %v", tt.samples, got, ok, tt.want)
		}
	}
	if _, ok := median(nil); ok {
		t.Error("nothing has a median")
	}
}

func TestSignificant(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 0.0123: "0.012", 0.8: "0.80", 1.234: "1.23", 12.34: "12.3", 1234: "1234"} {
		if got := significant(v); got != want {
			t.Errorf("significant(%v) = %q, want %q", v, got, want)
		}
	}
}

// TestCounter splits two commands at every place: wherever a read ends, there are two.
func TestCounter(t *testing.T) {
	t.Parallel()
	stream := []byte("*2\r\n$3\r\nGET\r\n$3\r\n*1\n\r\n*1\r\n$4\r\nPING\r\n")
	for i := range len(stream) {
		var c counter
		if got := c.count(stream[:i]) + c.count(stream[i:]); got != 2 {
			t.Errorf("split at %d: %d commands, want 2", i, got)
		}
	}
}

// TestProxy checks that commands which are sent together count as one round trip.
func TestProxy(t *testing.T) {
	t.Parallel()
	p, send := proxied(t, 0)
	send(ping)
	send(ping + ping + ping)
	if commands, trips := p.commands.Load(), p.trips.Load(); commands != 4 || trips != 2 {
		t.Errorf("%d commands in %d round trips, want 4 in 2", commands, trips)
	}
}

// TestProxy_Delay checks that a round trip takes the delay of both directions.
func TestProxy_Delay(t *testing.T) {
	t.Parallel()
	const delay = 20 * time.Millisecond
	_, send := proxied(t, delay)
	began := time.Now()
	send(ping)
	if took := time.Since(began); took < 2*delay {
		t.Errorf("a round trip took %v, want at least %v", took, 2*delay)
	}
}

const ping = "*1\r\n$4\r\nPING\r\n"

// proxied starts a proxy in front of a server that answers each read, and returns a
// function that sends commands through it and waits for one answer.
func proxied(t *testing.T, delay time.Duration) (p *proxy, send func(string)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		for buf := make([]byte, 1000); err == nil; {
			if _, err = c.Read(buf); err == nil {
				_, err = c.Write([]byte("+OK\r\n"))
			}
		}
	}()
	p, err = startProxy(l.Addr().String(), delay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return p, func(commands string) {
		t.Helper()
		if _, err := c.Write([]byte(commands)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, len("+OK\r\n"))); err != nil {
			t.Fatal(err)
		}
	}
}
