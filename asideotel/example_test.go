package asideotel_test

import (
	"context"
	"fmt"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asideotel"
)

// A service has exporters in place of these, which keep everything in memory.
func Example() {
	ctx := context.Background()
	reader, spans := sdkmetric.NewManualReader(), tracetest.NewInMemoryExporter()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	traces := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))

	telemetry, err := asideotel.New(asideotel.Options{Name: "chat", MeterProvider: meters, TracerProvider: traces})
	if err != nil {
		panic(err)
	}
	cfg := aside.Config{Type: "memory"}
	cfg.Hooks = append(cfg.Hooks, telemetry.Hooks())
	cache, err := aside.Open(cfg)
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	defer meters.Shutdown(ctx) // before the cache is closed, so that the last counts are exported
	if err := telemetry.Watch(cache); err != nil {
		panic(err)
	}

	for range 3 {
		_, err := aside.GetOrLoad(ctx, cache, aside.ChatMessages("A"), func(context.Context) (string, error) { return "hello", nil })
		if err != nil {
			panic(err)
		}
	}

	for _, span := range spans.GetSpans() {
		fmt.Println("span", span.Name, span.Attributes[1].Value.AsString())
	}
	var collected metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &collected); err != nil {
		panic(err)
	}
	for _, m := range collected.ScopeMetrics[0].Metrics {
		if reads, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "aside.reads" {
			for _, p := range reads.DataPoints {
				outcome, _ := p.Attributes.Value("aside.outcome")
				if p.Value > 0 {
					fmt.Println(m.Name, outcome.AsString(), p.Value)
				}
			}
		}
	}
	// Unordered output:
	// span aside.load miss
	// aside.reads hit 2
	// aside.reads miss 1
}
