package foreign

import (
	"context"
	"log/slog"
	"reflect"
)

// Enabler returns h for calls of its Enabled: h itself if its type is one of log/slog's, which do
// not panic, and h guarded by [Logs] otherwise. The difference matters, as a guarded call takes
// a fifth of the time of a hit in memory, and each read makes one.
func Enabler(h slog.Handler) slog.Handler {
	t := reflect.TypeOf(h)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.PkgPath() == "log/slog" {
		return h
	}
	return Logs{h}
}

// Logs wraps a log handler so that no method panics. A record that the handler panics on is
// lost: there is no other place to report it to. A handler that WithAttrs or WithGroup panics
// on stays without the attributes or the group.
type Logs struct{ slog.Handler }

func (h Logs) Enabled(ctx context.Context, level slog.Level) (enabled bool) {
	defer func() { _ = recover() }()
	return h.Handler.Enabled(ctx, level)
}

func (h Logs) Handle(ctx context.Context, r slog.Record) (err error) {
	defer func() { _ = recover() }()
	return h.Handler.Handle(ctx, r)
}

func (h Logs) WithAttrs(attrs []slog.Attr) (with slog.Handler) {
	defer func() {
		if recover() != nil {
			with = h
		}
	}()
	return Logs{h.Handler.WithAttrs(attrs)}
}

func (h Logs) WithGroup(name string) (with slog.Handler) {
	defer func() {
		if recover() != nil {
			with = h
		}
	}()
	return Logs{h.Handler.WithGroup(name)}
}
