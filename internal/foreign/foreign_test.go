package foreign_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/foreign"
)

// broken is an error whose methods panic.
type broken struct{}

func (*broken) Error() string { panic("Error") }

func TestSafely(t *testing.T) {
	t.Parallel()
	failed := errors.New("failed")
	for name, c := range map[string]struct {
		code func(context.Context) (int, error)
		want func(error) bool
	}{
		"an error":    {func(context.Context) (int, error) { return 0, failed }, func(err error) bool { return err == failed }},
		"none":        {func(context.Context) (int, error) { return 1, nil }, func(err error) bool { return err == nil }},
		"a panic":     {func(context.Context) (int, error) { panic("code") }, isPanic},
		"its methods": {func(context.Context) (int, error) { return 0, &broken{} }, isPanic},
	} {
		if _, err := foreign.Safely(t.Context(), c.code); !c.want(err) {
			t.Errorf("%s: got %T", name, err)
		}
	}
}

func isPanic(err error) bool {
	var p *foreign.Panic
	return errors.As(err, &p) && strings.Contains(p.Error(), "panicked") && len(p.Stack) > 0
}

// panics is a backend each of whose methods panics: it is nil.
type panics struct{ backend.Backend }

func TestBackend(t *testing.T) {
	t.Parallel()
	ctx, b := t.Context(), foreign.Backend{Backend: panics{}}
	_, _, get := b.Get(ctx, "k")
	_, _, ttl := b.TTL(ctx, "k")
	_, lease := b.Lease(ctx, "k", backend.LeaseRequest{})
	_, extend := b.Extend(ctx, "t", 1, "k")
	_, fill := b.Fill(ctx, "k", "t", backend.Fill{})
	_, info := b.Info(ctx)
	for method, err := range map[string]error{
		"Get": get, "TTL": ttl, "Lease": lease, "Extend": extend, "Fill": fill, "Info": info,
		"Set": b.Set(ctx, "k", nil, 1), "Delete": b.Delete(ctx, "k"), "Release": b.Release(ctx, "k", "t"),
		"Block": b.Block(ctx, "t", 1, "k"), "Unblock": b.Unblock(ctx, "t", "k"), "Clear": b.Clear(ctx, "k"), "Close": b.Close(),
	} {
		if !isPanic(err) {
			t.Errorf("%s: got %v, want the panic as an error", method, err)
		}
	}
}

// handler is a log handler each of whose methods panics: it is nil.
type handler struct{ slog.Handler }

func TestLogs(t *testing.T) {
	t.Parallel()
	log := slog.New(foreign.Logs{Handler: handler{}})
	log.With("a", 1).WithGroup("g").Warn("lost")
	if foreign.Enabler(handler{}).Enabled(t.Context(), slog.LevelError) {
		t.Error("got enabled of a handler that panics, want not")
	}
	own := slog.NewTextHandler(&strings.Builder{}, nil)
	if foreign.Enabler(own) != slog.Handler(own) {
		t.Error("got a guard of log/slog's own handler, want none")
	}
}
