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
	"github.com/cacheaside/aside/hook"
)

// A service exports its metrics periodically; here a reader collects them once.
func Example() {
	ctx := context.Background()
	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	telemetry, err := asideotel.New(asideotel.Options{Name: "chat", MeterProvider: meters})
	if err != nil {
		panic(err)
	}
	cache, err := aside.Open(aside.Config{Type: "memory", Hooks: []hook.Hooks{telemetry.Hooks()}})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	defer meters.Shutdown(ctx) // before the cache is closed, so that the last counts are exported
	if err := telemetry.Watch(cache); err != nil {
		panic(err)
	}

	for range 3 {
		if _, err := aside.GetOrLoad(ctx, cache, aside.ChatMessages("A"), func(context.Context) (string, error) {
			return "hello", nil
		}); err != nil {
			panic(err)
		}
	}

	var collected metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &collected); err != nil {
		panic(err)
	}
	for _, m := range collected.ScopeMetrics[0].Metrics {
		if m.Name != "aside.reads" {
			continue
		}
		for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
			outcome, _ := p.Attributes.Value("aside.outcome")
			fmt.Println(m.Name, outcome.AsString(), p.Value)
		}
	}
	// Unordered output:
	// aside.reads hit 2
	// aside.reads stale 0
	// aside.reads miss 1
}

// The span of a load is a child of the span of the request that began it. A hit has no span.
func Example_traces() {
	spans := tracetest.NewInMemoryExporter() // in a service, one that sends them to a collector
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	telemetry, err := asideotel.New(asideotel.Options{TracerProvider: tracers})
	if err != nil {
		panic(err)
	}
	cache, err := aside.Open(aside.Config{Type: "memory", Hooks: []hook.Hooks{telemetry.Hooks()}})
	if err != nil {
		panic(err)
	}
	defer cache.Close()

	serve := func(path string) {
		ctx, request := tracers.Tracer("chat").Start(context.Background(), path)
		defer request.End()
		if _, err := aside.GetOrLoad(ctx, cache, aside.ChatMessages("A"), func(ctx context.Context) (string, error) {
			_, query := tracers.Tracer("chat").Start(ctx, "SELECT")
			defer query.End()
			return "hello", nil
		}); err != nil {
			panic(err)
		}
	}
	serve("GET /first")
	serve("GET /second")

	names := map[string]string{"0000000000000000": "nothing"} // by the ids of the spans
	for _, span := range spans.GetSpans() {
		names[span.SpanContext.SpanID().String()] = span.Name
	}
	for _, span := range spans.GetSpans() {
		fmt.Println(span.Name, "in", names[span.Parent.SpanID().String()])
	}
	// Output:
	// SELECT in aside.load
	// aside.load in GET /first
	// GET /first in nothing
	// GET /second in nothing
}
