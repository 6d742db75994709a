package aside_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

// kept is a shape of values: n of them take four times memoryLimit as they are decoded.
type kept struct {
	name string
	n    int
	read func(t *testing.T, c aside.Cache, key aside.Key)
}

const memoryLimit = 2 << 20

func keeps[T any](name string, n int, text string) kept {
	return kept{name, n, func(t *testing.T, c aside.Cache, key aside.Key) {
		if _, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (value T, err error) {
			err = json.Unmarshal([]byte(text), &value)
			return value, err
		}); err != nil {
			t.Fatal(err)
		}
	}}
}

type keptMessage struct {
	ID, Role, Content string
	At                time.Time
	Reply             *string
}

type keptSparse struct {
	A, B, C, D, E string
	F             []keptSparse
	G             map[string]int
}

func repeated(n int, text string) string { return "[" + strings.Repeat(text+",", n-1) + text + "]" }

var keptShapes = []kept{
	keeps[[]keptMessage]("histories", 700, repeated(50, `{"ID":"`+strings.Repeat("i", 30)+`","Role":"user","Content":"`+strings.Repeat("x", 60)+`","At":"2026-01-02T03:04:05Z","Reply":"`+strings.Repeat("r", 30)+`"}`)),
	keeps[[]keptSparse]("sparse structs", 85, repeated(1000, "{}")),
	keeps[[]map[string]any]("maps", 500, repeated(30, `{"a":1.5,"b":"two","c":true}`)),
	keeps[any]("anything", 500, repeated(30, `{"a":1.5,"b":"two","c":true}`)),
	keeps[[]int64]("integers", 800, repeated(1000, "123")),
	keeps[[]*int64]("pointers", 500, repeated(1000, "123")),
	keeps[string]("strings", 800, `"`+strings.Repeat("x", 10000)+`"`),
}

// heap is how much of the heap is in use.
func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// keepsWithin reads values until the cache is full of them, and checks what is free
// once it is closed. Where the heap of the backend is this process's, too, it stays.
func keepsWithin(t *testing.T, c aside.Cache, space aside.Keyspace, shape kept) {
	t.Helper()
	for range 3 {
		for i := range shape.n {
			shape.read(t, c, space.Key(fmt.Sprint(i)))
		}
	}
	aside.AwaitFills(c)
	full := heap()
	redistest.Eventually(t, "the cache has evicted what is too much", func() bool {
		before := full
		c.Status(t.Context()) // the backend evicts before it says how much it has
		full = heap()
		return before-full < memoryLimit/20
	})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	grown := full - heap()
	t.Logf("%s: %.1f MiB", shape.name, float64(grown)/(1<<20))
	if grown < memoryLimit/4 || grown > 2*memoryLimit {
		t.Errorf("%s: %d bytes, want between %d and %d", shape.name, grown, memoryLimit/4, 2*memoryLimit)
	}
}

// The tests of memory are not parallel, as they measure the heap.

func TestMemory_DecodedValuesCountInTheMemoryBackend(t *testing.T) {
	for _, share := range []bool{false, true} {
		for _, shape := range keptShapes {
			t.Run(fmt.Sprint(shape.name, " shared ", share), func(t *testing.T) {
				c := open(t, aside.Config{Type: "memory", MemoryMaxBytes: memoryLimit})
				keepsWithin(t, c, aside.Keyspace{Name: "s", Share: share}, shape)
			})
		}
	}
}

func TestMemory_DecodedValuesCountOverRedis(t *testing.T) {
	for i, shape := range keptShapes {
		space := aside.Keyspace{Name: "s", Share: i%2 == 0}
		t.Run(shape.name, func(t *testing.T) {
			server := miniredis.RunT(t)
			c := overRedis(t, server.Addr(), aside.Config{DecodedMaxBytes: memoryLimit})
			keepsWithin(t, c, space, shape)
		})
	}
}

func TestMemory_DecodedValuesCountInTheNearCache(t *testing.T) {
	r := redistest.Start(t)
	for i, shape := range keptShapes {
		space := aside.Keyspace{Name: fmt.Sprint("s", i), Share: i%2 == 1}
		t.Run(shape.name, func(t *testing.T) {
			c := overRedis(t, r.Addr, aside.Config{DecodedMaxBytes: -1, NearMaxBytes: memoryLimit, Keyspaces: []aside.Keyspace{space}})
			serves(t, c)
			keepsWithin(t, c, space, shape)
		})
	}
}

// A value's first hit has it decoded and weighed anew: it does not live longer for
// that, and one that is too large to be remembered as decoded is still a hit.
func TestMemory_AFirstHitDoesNotProlongAValue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory"})
		defer c.Close()
		key := aside.Keyspace{Name: "s", TTL: 10 * time.Second}.Key("A")
		loads := 0
		load := func(context.Context) ([]string, error) { loads++; return []string{"v"}, nil }
		must(aside.GetOrLoad(t.Context(), c, key, load))
		time.Sleep(9 * time.Second)
		must(aside.GetOrLoad(t.Context(), c, key, load))
		if loads != 1 {
			t.Errorf("after 9 s of 10: %d loads", loads)
		}
		time.Sleep(2 * time.Second)
		must(aside.GetOrLoad(t.Context(), c, key, load))
		if loads != 2 {
			t.Errorf("after 11 s of 10: %d loads", loads)
		}
	})
}

// sparseInJSON is 80 bytes, or 3 of JSON.
type sparseInJSON struct {
	A, B, C, D, E string `json:",omitempty"`
}

func TestMemory_AValueTooLargeToBeRememberedIsAHit(t *testing.T) {
	t.Parallel()
	for _, share := range []bool{false, true} {
		c := open(t, aside.Config{Type: "memory", MemoryMaxBytes: 50_000})
		key := aside.Keyspace{Name: "s", Share: share}.Key("A")
		loads := 0
		for range 5 {
			list := must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) ([]sparseInJSON, error) {
				loads++
				return make([]sparseInJSON, 1000), nil
			}))
			if len(list) != 1000 {
				t.Fatal(len(list))
			}
			must(c.Status(t.Context())) // evicts what is to go
		}
		if loads != 1 {
			t.Errorf("Share %v: %d loads", share, loads)
		}
	}
}
