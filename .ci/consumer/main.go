// Command consumer uses every module of this repository that a service may get. The
// function release_check in .ci/common.sh builds it outside the tree, against the modules
// as their tags publish them, and compares its output.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/prometheus/client_golang/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asideotel"
	"github.com/cacheaside/aside/asideprom"
	"github.com/cacheaside/aside/examples/cachehttp"
)

func main() {
	ctx := context.Background()
	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	telemetry := must(asideotel.New(asideotel.Options{Name: "consumer", MeterProvider: meters}))
	metrics := asideprom.New("consumer")

	cfg := aside.Config{Type: "memory"}
	cfg.Hooks = append(cfg.Hooks, metrics.Hooks(), telemetry.Hooks())
	cache := must(aside.Open(cfg))
	defer cache.Close()
	metrics.Watch(cache)
	check(telemetry.Watch(cache))
	registry := prometheus.NewPedanticRegistry()
	check(registry.Register(metrics))
	server := httptest.NewServer(cachehttp.Handler(cache, cfg, cachehttp.Options{}))
	defer server.Close()

	for range 3 { // a miss and two hits
		must(aside.GetOrLoad(ctx, cache, aside.ChatMessages("A"), func(context.Context) (string, error) { return "hello", nil }))
	}
	fmt.Println("prometheus:", fromPrometheus(registry), "reads")
	fmt.Println("opentelemetry:", fromOpenTelemetry(ctx, reader), "reads")
	fmt.Println("http:", fromHTTP(server.URL+"/cache/status"), "reads")
}

func fromPrometheus(registry *prometheus.Registry) (reads float64) {
	for _, family := range must(registry.Gather()) {
		if family.GetName() == "aside_reads_total" {
			for _, m := range family.Metric {
				reads += m.GetCounter().GetValue()
			}
		}
	}
	return reads
}

func fromOpenTelemetry(ctx context.Context, reader sdkmetric.Reader) (reads int64) {
	var collected metricdata.ResourceMetrics
	check(reader.Collect(ctx, &collected))
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "aside.reads" {
				for _, p := range sum.DataPoints {
					reads += p.Value
				}
			}
		}
	}
	return reads
}

func fromHTTP(url string) (reads int64) {
	response := must(http.Get(url))
	defer response.Body.Close()
	var body struct {
		Data struct {
			Stats struct{ Hits, Misses int64 }
		}
	}
	check(json.NewDecoder(response.Body).Decode(&body))
	return body.Data.Stats.Hits + body.Data.Stats.Misses
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
