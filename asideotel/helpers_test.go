package asideotel_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asideotel"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	logging.Disable()
	goleak.VerifyTestMain(m)
}

// lab is providers that export to memory.
type lab struct {
	reader *sdkmetric.ManualReader
	meters *sdkmetric.MeterProvider
	spans  *tracetest.SpanRecorder
	traces *sdktrace.TracerProvider
}

func newLab() *lab {
	l := &lab{reader: sdkmetric.NewManualReader(), spans: tracetest.NewSpanRecorder()}
	l.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(l.reader))
	l.traces = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(l.spans))
	return l
}

func (l *lab) telemetry(t testing.TB, name string) *asideotel.Telemetry {
	t.Helper()
	telemetry, err := asideotel.New(asideotel.Options{Name: name, MeterProvider: l.meters, TracerProvider: l.traces})
	if err != nil {
		t.Fatal(err)
	}
	return telemetry
}

// open returns a Cache that is reported and watched.
func (l *lab) open(t testing.TB, name string, cfg aside.Config) aside.Cache {
	t.Helper()
	telemetry := l.telemetry(t, name)
	cfg.Hooks = append(cfg.Hooks, telemetry.Hooks())
	if cfg.Type == "" {
		cfg.Type = "memory"
	}
	c, err := aside.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := telemetry.Watch(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (l *lab) collect(t testing.TB) metricdata.ResourceMetrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := l.reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// series returns the exported values, by name and attributes: "aside.reads
// aside.keyspace=s,aside.outcome=hit". That of a histogram is how much it has.
func (l *lab) series(t testing.TB) map[string]int64 {
	t.Helper()
	got := make(map[string]int64)
	add := func(name string, attrs attribute.Set, n int64) {
		got[name+" "+attrs.Encoded(attribute.DefaultEncoder())] += n
	}
	for _, scope := range l.collect(t).ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, int64(p.Count))
				}
			default:
				t.Errorf("%s: %T", m.Name, data)
			}
		}
	}
	return got
}

// want checks some series: those that are 0 need not be there.
func (l *lab) want(t testing.TB, want map[string]int64) {
	t.Helper()
	got := l.series(t)
	for series, n := range want {
		if got[series] != n {
			t.Errorf("%s: got %d, want %d", series, got[series], n)
		}
	}
	if t.Failed() {
		for series, n := range got {
			if n != 0 {
				t.Log(series, n)
			}
		}
	}
}

// ended returns the ended spans of a name.
func (l *lab) ended(name string) (spans []sdktrace.ReadOnlySpan) {
	for _, s := range l.spans.Ended() {
		if s.Name() == name {
			spans = append(spans, s)
		}
	}
	return spans
}

// one returns the only ended span of a name.
func (l *lab) one(t testing.TB, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	spans := l.ended(name)
	if len(spans) != 1 {
		t.Fatalf("%d spans %q, want 1", len(spans), name)
	}
	return spans[0]
}

func attributes(attrs []attribute.KeyValue) string {
	set := attribute.NewSet(attrs...)
	return set.Encoded(attribute.DefaultEncoder())
}

func wantText(t testing.TB, what string, got any, want string) {
	t.Helper()
	if fmt.Sprint(got) != want {
		t.Errorf("%s: got %v, want %s", what, got, want)
	}
}

var space = aside.Keyspace{Name: "s", TTL: time.Hour}
