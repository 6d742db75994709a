package asideotel

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/cacheaside/aside/hook"
)

// load is in the context of a load, under the key loadOf.
type load struct {
	span  trace.SpanContext
	attrs []attribute.KeyValue

	mu    sync.Mutex
	known map[spanID]bool // its parent's span, and those that have a link to it
}

type loadOf struct{ *Telemetry }

type spanID struct {
	trace trace.TraceID
	span  trace.SpanID
}

// add reports whether the span does not lead to the load yet, and notes that it does now.
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

// endLoad ends the span of a load. Its status has no description, which would be the text of
// the error: that may have data in it.
func endLoad(span trace.Span, err error) {
	defer span.End()
	if failed := failure(err); len(failed) > 0 {
		span.SetAttributes(failed...)
		if failed[0] != canceled { // as the caller left, nothing went wrong
			span.SetStatus(codes.Error, "")
		}
	}
}

// joined links the span of a caller that took the result of a load to the load's, once: a
// GetOrLoadMany takes many results of one load.
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
