package asideprom_test

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asideprom"
	"github.com/cacheaside/aside/hook"
)

// A service registers the metrics of its cache, and serves the registry with promhttp.
func Example() {
	metrics := asideprom.New("chat")
	cache, err := aside.Open(aside.Config{Type: "memory", Hooks: []hook.Hooks{metrics.Hooks()}})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	metrics.Watch(cache)
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)

	for range 3 {
		if _, err := aside.GetOrLoad(context.Background(), cache, aside.ChatMessages("A"), func(context.Context) (string, error) {
			return "hello", nil
		}); err != nil {
			panic(err)
		}
	}

	families, err := registry.Gather() // as a scrape does
	if err != nil {
		panic(err)
	}
	for _, family := range families {
		if family.GetName() != "aside_reads_total" {
			continue
		}
		for _, m := range family.Metric {
			labels := make(map[string]string)
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			fmt.Println(labels["cache"], labels["keyspace"], labels["outcome"], m.Counter.GetValue())
		}
	}
	// Output:
	// chat chat_messages hit 2
	// chat chat_messages miss 1
	// chat chat_messages stale 0
}
