package aside_test

import (
	"context"
	"testing"

	"github.com/cacheaside/aside"
)

func BenchmarkHit(b *testing.B) {
	load := func(context.Context) (string, error) { return "a value of some length", nil }
	for name, key := range map[string]aside.Key{"memory": room, "memory,share": aside.Keyspace{Name: "s", Share: true}.Key("A")} {
		b.Run(name, func(b *testing.B) {
			c := must(aside.Open(aside.Config{Type: aside.TypeMemory}))
			defer c.Close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := aside.GetOrLoad(b.Context(), c, key, load); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMiss(b *testing.B) {
	c := must(aside.Open(aside.Config{Type: aside.TypeMemory}))
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
