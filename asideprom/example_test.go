package asideprom_test

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asideprom"
	"github.com/cacheaside/aside/hook"
)

// A service registers the metrics of its cache, and serves its registry with promhttp.
func Example() {
	metrics := asideprom.New("chat")
	cache, err := aside.Open(aside.Config{Type: "memory", Hooks: []hook.Hooks{metrics.Hooks()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()
	metrics.Watch(cache)
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)

	for range 3 {
		_, err := aside.GetOrLoad(context.Background(), cache, aside.ChatMessages("1"), func(context.Context) (string, error) {
			return "hello", nil
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		fmt.Println(err)
	}
	for _, f := range families {
		if f.GetName() != "aside_reads_total" {
			continue
		}
		for _, m := range f.Metric {
			fmt.Println(m.Label[1].GetValue(), m.Label[2].GetValue(), m.Counter.GetValue())
		}
	}
	// Output:
	// chat_messages hit 2
	// chat_messages miss 1
	// chat_messages stale 0
}
