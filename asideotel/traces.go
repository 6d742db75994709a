package asideotel

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/cacheaside/aside/hook"
)

// load is the state of a load's span. It is in the context of the load, under the key
// loadOf.
type load struct {
	span  trace.SpanContext
	attrs []attribute.KeyValue

	mu    sync.Mutex
	known map[spanID]bool // spans that lead to the load: its parent, and those with a link
}

// loadOf is the key of a load in a context. Each Telemetry has its own, as two may trace
// one Cache.
type loadOf struct{ *Telemetry }

type spanID struct {
	trace trace.TraceID
	span  trace.SpanID
}

// add notes that a span leads to the load, and reports whether it did not before.
func (l *load) add(span trace.SpanContext) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := spanID{span.TraceID(), span.SpanID()}
	if l.known[id] {
		return false
	}
	l.known[id] = true
	return true
}

// startLoad starts the span of a load. A refresh or an audit outlives its caller's span,
// so its span is a root with a link, not a child.
func (t *Telemetry) startLoad(ctx context.Context, h hook.Load) (context.Context, trace.Span) {
	l := &load{
		attrs: append([]attribute.KeyValue{keyspaceKey.String(h.Keyspace), reasonKey.String(h.Reason)}, t.name...),
		known: make(map[spanID]bool),
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindInternal), trace.WithAttributes(l.attrs...), trace.WithAttributes(keysKey.Int(h.Keys))}
	caller := trace.SpanContextFromContext(ctx)
	switch {
	case h.Reason != hook.ForRefresh && h.Reason != hook.ForAudit:
		l.add(caller)
	case caller.IsValid():
		options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: caller}))
	default:
		options = append(options, trace.WithNewRoot())
	}
	ctx, span := t.tracer.Start(ctx, "aside.load", options...)
	l.span = span.SpanContext()
	return context.WithValue(ctx, loadOf{t}, l), span
}

// endLoad ends the span of a load. Its status has no description: that would be the text
// of the error, which may contain data.
func endLoad(span trace.Span, err error) {
	defer span.End()
	if failed := failure(err); len(failed) > 0 {
		span.SetAttributes(failed...)
		if failed[0] != canceled { // as the caller left, nothing went wrong
			span.SetStatus(codes.Error, "")
		}
	}
}

// joined links the span of a caller that took the result of a load to the load's span. It
// does so once per span, as a GetOrLoadMany takes many results of one load.
func (t *Telemetry) joined(ctx context.Context, r hook.Read) {
	if r.Load == nil {
		return
	}
	l, ok := r.Load.Value(loadOf{t}).(*load)
	span := trace.SpanFromContext(ctx)
	if !ok || !l.span.IsValid() || !span.IsRecording() || !l.add(span.SpanContext()) {
		return
	}
	span.AddLink(trace.Link{SpanContext: l.span, Attributes: l.attrs})
	span.AddEvent("aside.joined", trace.WithAttributes(l.attrs...))
}
