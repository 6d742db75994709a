package asideotel_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/cacheaside/aside"
)

// A load has a span between its caller's and those that the loader makes. A hit has none.
func TestSpans(t *testing.T) {
	t.Parallel()
	l := newLab()
	c := l.open(t, "chat", aside.Config{})
	tracer := l.traces.Tracer("test")
	for range 2 {
		ctx, caller := tracer.Start(t.Context(), "caller")
		if _, err := aside.GetOrLoad(ctx, c, space.Key("A"), func(ctx context.Context) (string, error) {
			_, query := tracer.Start(ctx, "query")
			query.End()
			return "v", nil
		}); err != nil {
			t.Fatal(err)
		}
		caller.End()
	}
	load, query, caller := l.one(t, "aside.load"), l.one(t, "query"), l.ended("caller")[0]
	if load.Parent().SpanID() != caller.SpanContext().SpanID() || query.Parent().SpanID() != load.SpanContext().SpanID() {
		t.Error("the load is not between its caller and its query")
	}
	wantText(t, "kind", load.SpanKind(), trace.SpanKindInternal.String())
	wantText(t, "attributes", attributes(load.Attributes()), "aside.cache=chat,aside.keyspace=s,aside.load.keys=1,aside.load.reason=miss")
	if load.Status().Code != codes.Unset || len(load.Links()) != 0 {
		t.Errorf("status %v, links %v, want none", load.Status(), load.Links())
	}
	for _, caller := range l.ended("caller") { // of its own load, or of a hit
		if len(caller.Links()) != 0 || len(caller.Events()) != 0 || len(caller.Attributes()) != 0 {
			t.Errorf("a caller has links %v, events %v, attributes %v", caller.Links(), caller.Events(), caller.Attributes())
		}
	}
}

// A caller that takes the result of another's load has a link to it, and the one that began
// the load has none, however often they ask.
func TestSpans_OfCallersThatJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		c := l.open(t, "", aside.Config{})
		tracer := l.traces.Tracer("test")
		ids := []string{"1", "2", "3"}
		var group sync.WaitGroup
		for _, name := range []string{"first", "second"} {
			ctx, caller := tracer.Start(t.Context(), name)
			group.Go(func() {
				defer caller.End()
				if _, err := aside.GetOrLoadMany(ctx, c, ids, space.Key, func(ctx context.Context, ids []string) (map[string]string, error) {
					time.Sleep(time.Second)
					return map[string]string{"1": "v", "2": "v", "3": "v"}, nil
				}); err != nil {
					t.Error(err)
				}
			})
			group.Go(func() {
				time.Sleep(time.Millisecond)
				if _, err := aside.GetOrLoad(ctx, c, space.Key("1"), func(context.Context) (string, error) { return "v", nil }); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		group.Wait()
		load, first, second := l.one(t, "aside.load"), l.one(t, "first"), l.one(t, "second")
		if load.Parent().SpanID() != first.SpanContext().SpanID() {
			t.Error("the load is not the first caller's")
		}
		wantText(t, "attributes", attributes(load.Attributes()), "aside.keyspace=s,aside.load.keys=3,aside.load.reason=miss")
		if n := len(first.Links()) + len(first.Events()); n != 0 {
			t.Errorf("the first caller has %d links and events, want none", n)
		}
		if links := second.Links(); len(links) != 1 || !links[0].SpanContext.Equal(load.SpanContext()) {
			t.Errorf("the second caller has links %v, want one to the load", links)
		}
		if events := second.Events(); len(events) != 1 || events[0].Name != "aside.joined" {
			t.Errorf("the second caller has events %v, want one", events)
		}
		l.want(t, map[string]int64{"aside.read.coalesced aside.keyspace=s": 5})
	})
}

// Refreshes and audits are roots, with a link to the caller that set them off. A caller that
// waits for a refresh has a link to it.
func TestSpans_InTheBackground(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, reason string
		audit        float64
		space        aside.Keyspace
		waits        bool
	}{
		{name: "refresh", reason: "refresh", space: aside.Keyspace{Name: "s", TTL: time.Hour, RefreshAfter: 30 * time.Minute}},
		{name: "refresh that is waited for", reason: "refresh", waits: true, space: aside.Keyspace{Name: "s", TTL: time.Hour, RefreshAfter: 30 * time.Minute, RefreshWait: time.Minute}},
		{name: "audit", reason: "audit", audit: 1, space: space},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLab()
				c := l.open(t, "", aside.Config{Audit: tt.audit})
				load := func(context.Context) (string, error) { time.Sleep(time.Second); return "v", nil }
				if _, err := aside.GetOrLoad(t.Context(), c, tt.space.Key("A"), load); err != nil {
					t.Fatal(err)
				}
				time.Sleep(40 * time.Minute)
				ctx, caller := l.traces.Tracer("test").Start(t.Context(), "caller")
				if _, err := aside.GetOrLoad(ctx, c, tt.space.Key("A"), load); err != nil {
					t.Fatal(err)
				}
				caller.End()
				time.Sleep(time.Minute)
				synctest.Wait()
				spans := l.ended("aside.load")
				if len(spans) != 2 {
					t.Fatalf("%d loads, want 2", len(spans))
				}
				got := spans[1]
				wantText(t, "attributes", attributes(got.Attributes()), "aside.keyspace=s,aside.load.keys=1,aside.load.reason="+tt.reason)
				if got.Parent().IsValid() || got.SpanContext().TraceID() == caller.SpanContext().TraceID() {
					t.Error("it is no root")
				}
				if links := got.Links(); len(links) != 1 || !links[0].SpanContext.Equal(caller.SpanContext()) {
					t.Errorf("links %v, want one to the caller", links)
				}
				links := l.one(t, "caller").Links()
				if tt.waits && (len(links) != 1 || !links[0].SpanContext.Equal(got.SpanContext())) || !tt.waits && len(links) != 0 {
					t.Errorf("the caller has links %v", links)
				}
				if len(spans[0].Links()) != 0 {
					t.Errorf("a load without a caller's span has links %v", spans[0].Links())
				}
			})
		})
	}
}

type queryError struct{ text string }

func (e *queryError) Error() string { return e.text }

// typed is an error that names its type itself, as semconv lets it.
type typed string

func (typed) Error() string       { return "typed" }
func (t typed) ErrorType() string { return string(t) }

// panics is an error whose methods panic.
type panics struct{}

func (panics) Error() string { return "panics" }
func (panics) Is(error) bool { panic("secret") }
func (panics) As(any) bool   { panic("secret") }

// A failed load has its error's type, in the span and in both histograms, and not its text.
// Not found is no failure.
func TestErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		load func(context.Context) (string, error)
		want string // "" if it is no failure
	}{
		{"a value", func(context.Context) (string, error) { return "v", nil }, ""},
		{"not found", func(context.Context) (string, error) { return "", fmt.Errorf("user: %w", aside.ErrNotFound) }, ""},
		{"an error", func(context.Context) (string, error) { return "", fmt.Errorf("user: %w", &queryError{"secret"}) }, "*asideotel_test.queryError"},
		{"a timeout", func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }, "timeout"},
		{"canceled", func(context.Context) (string, error) { return "", fmt.Errorf("user: %w", context.Canceled) }, "canceled"},
		{"an error of many types", func(context.Context) (string, error) { return "", typed("secret") }, "asideotel_test.typed"},
		{"an error that panics", func(context.Context) (string, error) { return "", panics{} }, "asideotel_test.panics"},
		{"a panic", func(context.Context) (string, error) { panic("secret") }, "panic"},
		{"a panic with not found", func(context.Context) (string, error) { panic(aside.ErrNotFound) }, "panic"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLab()
				c := l.open(t, "", aside.Config{LoadTimeout: time.Minute})
				func() {
					defer func() { _ = recover() }()
					_, _ = aside.GetOrLoad(t.Context(), c, space.Key("A"), tt.load)
				}()
				synctest.Wait()
				load := l.one(t, "aside.load")
				attrs, suffix := "aside.keyspace=s,aside.load.keys=1,aside.load.reason=miss", ""
				status := codes.Unset
				if tt.want != "" {
					suffix, status = ",error.type="+tt.want, codes.Error
				}
				if tt.want == "canceled" {
					status = codes.Unset
				}
				wantText(t, "attributes", attributes(load.Attributes()), attrs+suffix)
				if load.Status().Code != status || load.Status().Description != "" || len(load.Events()) != 0 {
					t.Errorf("status %+v, events %v, want %v alone", load.Status(), load.Events(), status)
				}
				want := map[string]int64{
					"aside.load.duration aside.keyspace=s,aside.load.reason=miss" + suffix: 1,
					"aside.miss.duration aside.keyspace=s" + suffix:                        1,
				}
				l.want(t, want)
			})
		})
	}
}

// A load that is abandoned is reported when its loader returns.
func TestErrors_OfAnAbandonedLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		c := l.open(t, "", aside.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := aside.GetOrLoad(ctx, c, space.Key("A"), func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		synctest.Wait()
		l.one(t, "aside.load") // has ended
		l.want(t, map[string]int64{
			"aside.load.duration aside.keyspace=s,aside.load.reason=miss,error.type=canceled": 1,
			"aside.miss.duration aside.keyspace=s,error.type=timeout":                         1,
		})
	})
}
