// Package asideotel reports a Cache to OpenTelemetry, as metrics and traces.
//
//	telemetry, err := asideotel.New(asideotel.Options{Name: "chat"})
//	...
//	cfg.Hooks = append(cfg.Hooks, telemetry.Hooks())
//	cache, err := aside.Open(cfg)
//	...
//	err = telemetry.Watch(cache)
//
// Counters are read from aside.Status at each collection, so a hit costs nothing more. Hooks
// report the durations of loads and misses, trouble, and spans. The terms are those of
// package aside.
//
// Each call of a loader has a span, aside.load; a hit has none. The span is a child of the
// span of the caller that began the load, and the parent of the loader's own spans. Refreshes
// and audits run in the background, so the span of one is a root with a link to the caller's.
// A caller that takes the result of another caller's load, or waits for a refresh, gets an
// event aside.joined, and a link from its own span to the load's. If a loader ignores the end
// of its context, its span and duration are reported when it returns.
//
// OpenTelemetry has no semantic conventions for caches yet. All names start with "aside.",
// except error.type, server.address and server.port, and will change once there are some.
// README.md lists them. go-redis's own instrumentation reports the commands to Redis.
//
// No key, no value and no text of an error is reported: hooks receive no keys, and an error is
// named by its Go type.
package asideotel

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/hook"
)

const scope = "github.com/cacheaside/aside/asideotel"

// The attributes that the semantic conventions do not have.
const (
	cacheKey    = attribute.Key("aside.cache")
	keyspaceKey = attribute.Key("aside.keyspace")
	outcomeKey  = attribute.Key("aside.outcome")
	reasonKey   = attribute.Key("aside.load.reason")
	keysKey     = attribute.Key("aside.load.keys")
	auditKey    = attribute.Key("aside.audit")
	troubleKey  = attribute.Key("aside.trouble")
)

// Options configures a Telemetry. Its zero value uses the global providers.
type Options struct {
	// Name is the attribute aside.cache of everything that is reported. Caches that share a
	// provider must have different names. Defaults to "": no attribute.
	Name string

	// MeterProvider and TracerProvider receive the metrics and the traces. Each defaults to
	// the global one.
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider
}

// Telemetry reports one Cache. Its methods may be called concurrently.
type Telemetry struct {
	name   []attribute.KeyValue // aside.cache, if there is one
	tracer trace.Tracer
	meter  metric.Meter
	instruments

	mu       sync.Mutex
	troubles map[trouble]bool // every trouble so far, and whether it lasts

	// watching guards registration. It is held while the MeterProvider waits for a collection,
	// which locks mu and not this.
	watching     sync.Mutex
	registration metric.Registration
}

// New returns a Telemetry. It fails if the MeterProvider refuses an instrument.
func New(o Options) (*Telemetry, error) {
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	t := &Telemetry{
		tracer:   o.TracerProvider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		meter:    o.MeterProvider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL)),
		troubles: make(map[trouble]bool),
	}
	if o.Name != "" {
		t.name = []attribute.KeyValue{cacheKey.String(o.Name)}
	}
	var err error
	if t.instruments, err = newInstruments(t.meter); err != nil {
		return nil, err
	}
	return t, nil
}

// Hooks returns the hooks for the aside.Config.Hooks of one Cache. Hooks that come after
// them receive contexts with the span of the load.
func (t *Telemetry) Hooks() hook.Hooks {
	return hook.Hooks{Read: t.read, Load: t.load, State: t.state}
}

// read links a read to its load, and records the duration of a miss.
func (t *Telemetry) read(ctx context.Context, r hook.Read) {
	t.joined(ctx, r)
	if r.Outcome == hook.Miss {
		t.missDuration.Record(ctx, r.Duration.Seconds(), t.with(failure(r.Err, keyspaceKey.String(r.Keyspace))...))
	}
}

// load makes the span of a load, and records its duration.
func (t *Telemetry) load(ctx context.Context, l hook.Load) (context.Context, func(hook.LoadEnd)) {
	ctx, span := t.startLoad(ctx, l)
	return ctx, func(e hook.LoadEnd) {
		endLoad(span, e.Err)
		t.loadDuration.Record(ctx, e.Duration.Seconds(), t.with(failure(e.Err, keyspaceKey.String(l.Keyspace), reasonKey.String(l.Reason))...))
	}
}

// with returns attrs and the attribute of the name.
func (t *Telemetry) with(attrs ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(append(attrs, t.name...)...)
}

var canceled = semconv.ErrorTypeKey.String("canceled")

// failure appends error.type to attrs if err is a failure, which not found is not. The
// methods of an error belong to its author, and may panic.
func failure(err error, attrs ...attribute.KeyValue) (with []attribute.KeyValue) {
	defer func() {
		if recover() != nil {
			with = append(attrs, typeOf(err))
		}
	}()
	var panicked *aside.PanicError // first, as its Value may be ErrNotFound
	switch {
	case err == nil:
		return attrs
	case errors.As(err, &panicked):
		return append(attrs, semconv.ErrorTypeKey.String("panic"))
	case errors.Is(err, aside.ErrNotFound):
		return attrs
	case errors.Is(err, context.Canceled):
		return append(attrs, canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return append(attrs, semconv.ErrorTypeKey.String("timeout"))
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return append(attrs, typeOf(err))
}

// typeOf is error.type by err's Go type. An error's own ErrorType method, which semconv asks,
// may return any text, and any number of them.
func typeOf(err error) attribute.KeyValue {
	return semconv.ErrorTypeKey.String(fmt.Sprintf("%T", err))
}
