package aside_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

// These are of the hot paths alone; the module bench compares them with others'.

var shared = aside.Keyspace{Name: "s", Share: true}

// BenchmarkHit is of hits in memory; otter is the cache underneath.
func BenchmarkHit(b *testing.B) {
	load := func(context.Context) (string, error) { return "a value of some length", nil }
	for name, space := range map[string]aside.Keyspace{"json": {Name: "j"}, "bytes": {Name: "b", Codec: aside.Bytes}, "share": shared} {
		b.Run(name, func(b *testing.B) {
			c := must(aside.Open(aside.Config{Type: "memory"}))
			defer c.Close()
			key := space.Key("A")
			parallel(b, func() error {
				_, err := aside.GetOrLoad(b.Context(), c, key, load)
				return err
			})
		})
	}
	b.Run("otter", func(b *testing.B) {
		c := must(otter.New(&otter.Options[string, string]{MaximumWeight: 1 << 20, Weigher: func(k, v string) uint32 { return uint32(len(v)) },
			ExpiryCalculator: otter.ExpiryWriting[string, string](time.Minute)}))
		defer c.StopAllGoroutines()
		c.Set("s:A", "a value of some length")
		parallel(b, func() error {
			if _, ok := c.GetIfPresent("s:A"); !ok {
				return fmt.Errorf("a miss")
			}
			return nil
		})
	})
}

// BenchmarkRedisHit is of hits on a Redis server, and of what its client takes for
// a GET.
func BenchmarkRedisHit(b *testing.B) {
	r := redistest.Start(b)
	c := must(aside.Open(aside.Config{Timeout: time.Minute, Redis: aside.Redis{Hosts: []string{r.Addr}}}))
	defer c.Close()
	client := r.Client()
	raw := aside.Keyspace{Name: "b", Codec: aside.Bytes}
	for _, size := range []int{100, 10_000} {
		value := make([]byte, size)
		key := raw.Key(fmt.Sprint(size))
		must(aside.GetOrLoad(b.Context(), c, key, func(context.Context) ([]byte, error) { return value, nil }))
		for _, goroutines := range []int{1, 16, 128} {
			for name, get := range map[string]func() error{
				"aside": func() error {
					_, err := aside.GetOrLoad(b.Context(), c, key, func(context.Context) ([]byte, error) { return nil, fmt.Errorf("a miss") })
					return err
				},
				"go-redis": func() error { return client.Get(b.Context(), key.String()).Err() },
			} {
				b.Run(fmt.Sprintf("%dB/%d/%s", size, goroutines, name), func(b *testing.B) { inGoroutines(b, goroutines, get) })
			}
		}
	}
}

// BenchmarkRedisMiss is of reads of keys that are not there, and of the GET and the SET
// that a service does by hand.
func BenchmarkRedisMiss(b *testing.B) {
	r := redistest.Start(b)
	c := must(aside.Open(aside.Config{Timeout: time.Minute, Redis: aside.Redis{Hosts: []string{r.Addr}}}))
	defer c.Close()
	client := r.Client()
	raw := aside.Keyspace{Name: "b", Codec: aside.Bytes}
	value := make([]byte, 100)
	var last atomic.Int64
	next := func() aside.Key { return raw.Key(fmt.Sprint(last.Add(1))) }
	for _, goroutines := range []int{1, 16, 128} {
		for name, read := range map[string]func() error{
			"aside": func() error {
				_, err := aside.GetOrLoad(b.Context(), c, next(), func(context.Context) ([]byte, error) { return value, nil })
				return err
			},
			"go-redis": func() error {
				key := next().String()
				if err := client.Get(b.Context(), key).Err(); err != redis.Nil {
					return fmt.Errorf("%s is there: %w", key, err)
				}
				return client.Set(b.Context(), key, value, time.Hour).Err()
			},
		} {
			b.Run(fmt.Sprintf("%d/%s", goroutines, name), func(b *testing.B) { inGoroutines(b, goroutines, read) })
		}
	}
}

func inGoroutines(b *testing.B, n int, do func() error) {
	b.ReportAllocs()
	if n == 1 {
		for b.Loop() {
			must(0, do())
		}
		return
	}
	b.SetParallelism(max(1, n/runtime.GOMAXPROCS(0)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			must(0, do())
		}
	})
}

// parallel runs do in one goroutine, then in one a processor.
func parallel(b *testing.B, do func() error) {
	b.Run("1", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := do(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("n", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := do(); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkMiss(b *testing.B) {
	c := must(aside.Open(aside.Config{Type: "memory"}))
	defer c.Close()
	load := func(context.Context) (string, error) { return "v", nil }
	b.ReportAllocs()
	for b.Loop() {
		must(aside.GetOrLoad(b.Context(), c, room, load))
		if err := aside.Invalidate(b.Context(), c, room); err != nil {
			b.Fatal(err)
		}
	}
}
