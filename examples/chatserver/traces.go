package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/cacheaside/aside/asideotel"
	"github.com/cacheaside/aside/hook"
)

// traceTimeout is how long a stopping server waits for its last spans to be sent.
const traceTimeout = 5 * time.Second

// traces makes the server's spans, of requests and of the loads within them.
type traces struct {
	provider oteltrace.TracerProvider
	stop     func() // sends the last spans
}

var noTraces = &traces{noop.NewTracerProvider(), func() {}}

// openTraces returns traces that sends its spans by OTLP over HTTP to endpoint, the address
// of a collector. Without an endpoint they are dropped. A collector that is unavailable
// delays no request.
func openTraces(ctx context.Context, endpoint, server string, log *slog.Logger) (*traces, error) {
	if endpoint == "" {
		return noTraces, nil
	}
	to, err := url.JoinPath(endpoint, "v1", "traces")
	if err != nil {
		return nil, errEndpoint
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(to))
	if err != nil {
		return nil, errEndpoint
	}
	of, err := resource.Merge(resource.Default(), resource.NewSchemaless(semconv.ServiceName("chatserver"), semconv.ServiceInstanceID(server)))
	if err != nil {
		return nil, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans cannot be sent", "err", withoutURL(err)) }))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(of))
	return &traces{provider, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceTimeout)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn("the last spans cannot be sent", "err", withoutURL(err))
		}
	}}, nil
}

var addresses = regexp.MustCompile(`https?://[^\s"]*`)

// withoutURL returns err's text without the collector's address and answer, which may have a
// token in them.
func withoutURL(err error) string {
	if of := new(url.Error); errors.As(err, &of) {
		err = of.Err
	}
	text, _, _ := strings.Cut(err.Error(), " (body:")
	return addresses.ReplaceAllString(text, "the collector")
}

// cacheHooks returns hooks for the cache that make a span for each load.
func (t *traces) cacheHooks() (hook.Hooks, error) {
	telemetry, err := asideotel.New(asideotel.Options{Name: "chat", TracerProvider: t.provider})
	if err != nil {
		return hook.Hooks{}, err
	}
	return telemetry.Hooks(), nil
}

// request begins the span of a request, as a child of the client's if it sent one. The span is
// named at its end, when the request's route is known.
func (t *traces) request(r *http.Request) (*http.Request, func(route string, code int)) {
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := t.provider.Tracer("chatserver").Start(ctx, methodLabel(r.Method), oteltrace.WithSpanKind(oteltrace.SpanKindServer))
	return r.WithContext(ctx), func(route string, code int) {
		if route != "" {
			span.SetName(methodLabel(r.Method) + " " + route)
		}
		span.SetAttributes(semconv.HTTPRequestMethodKey.String(methodLabel(r.Method)), semconv.HTTPRoute(route), semconv.HTTPResponseStatusCode(code))
		if code >= 500 {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}
