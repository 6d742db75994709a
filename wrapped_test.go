package aside_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside"
)

// withMap is a Cache that is a struct with a map in it, behind an interface: its type
// can be compared, and its values can not.
type withMap struct {
	aside.Cache
	more any
}

type plainMap struct {
	aside.Cache
	more map[string]bool
}

// delegating has a Cache without embedding it.
type delegating struct{ inner aside.Cache }

func (n delegating) Get(ctx context.Context, key string) ([]byte, bool, error) {
	return n.inner.Get(ctx, key)
}
func (n delegating) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return n.inner.Set(ctx, key, value, ttl)
}
func (n delegating) Delete(ctx context.Context, keys ...string) error {
	return n.inner.Delete(ctx, keys...)
}
func (n delegating) Lease(ctx context.Context, key string, req aside.LeaseRequest) (aside.Lease, error) {
	return n.inner.Lease(ctx, key, req)
}
func (n delegating) Extend(ctx context.Context, key, token string, ttl time.Duration) (bool, error) {
	return n.inner.Extend(ctx, key, token, ttl)
}
func (n delegating) Fill(ctx context.Context, key, token string, fill aside.Fill) (bool, error) {
	return n.inner.Fill(ctx, key, token, fill)
}
func (n delegating) Release(ctx context.Context, key, token string) error {
	return n.inner.Release(ctx, key, token)
}
func (n delegating) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error {
	return n.inner.Block(ctx, token, ttl, keys...)
}
func (n delegating) Unblock(ctx context.Context, token string, keys ...string) error {
	return n.inner.Unblock(ctx, token, keys...)
}
func (n delegating) Clear(ctx context.Context, prefixes ...string) error {
	return n.inner.Clear(ctx, prefixes...)
}
func (n delegating) Status(ctx context.Context) (aside.Status, error) { return n.inner.Status(ctx) }
func (n delegating) Close() error                                     { return n.inner.Close() }

// A Cache that can not be told from others, or whose own front and Config another
// front would hide, is an error of every call that takes a Cache, and panics nowhere.
// In front of it New makes what they take.
func TestACacheThatNewWasNotCalledFor(t *testing.T) {
	t.Parallel()
	ours := open(t, aside.Config{Type: aside.TypeMemory, KeyPrefix: "app:"})
	for name, c := range map[string]aside.Cache{
		"a map":                   plainMap{Cache: nil, more: map[string]bool{}},
		"a map in an interface":   withMap{more: map[string]bool{}},
		"a func in an interface":  withMap{more: func() {}},
		"a slice, over ours":      withMap{Cache: ours, more: []int{}},
		"ours, embedded":          struct{ aside.Cache }{ours},
		"ours, behind a pointer":  &struct{ aside.Cache }{ours},
		"ours, in a named field":  delegating{ours},
		"ours, embedded twice":    struct{ aside.Cache }{&struct{ aside.Cache }{ours}},
		"ours, in one with a map": &plainMap{Cache: ours},
		"a nil pointer":           (*plainMap)(nil),
		"no Cache at all":         nil,
	} {
		load := func(context.Context) (string, error) { return "loaded", nil }
		_, readErr := aside.GetOrLoad(t.Context(), c, room, load)
		_, generationsErr := aside.NewGenerations(c)
		_, _, ttlErr := aside.TTL(t.Context(), c, room)
		for call, err := range map[string]error{
			"GetOrLoad": readErr, "NewGenerations": generationsErr, "TTL": ttlErr,
			"Invalidate": aside.Invalidate(t.Context(), c, room),
			"Update":     aside.Update(t.Context(), c, func(context.Context) error { t.Error(name, "was written"); return nil }, room),
		} {
			if err == nil || !strings.HasPrefix(err.Error(), "aside: ") || !strings.Contains(err.Error(), "New") {
				t.Errorf("%s: %s returned %v", name, call, err)
			}
		}
		aside.Pending(c, room)
	}
	over := must(aside.New(struct{ aside.Cache }{ours}, aside.Config{}))
	defer over.Close()
	read(t, over, func(context.Context) (string, error) { return "v", nil })
	if value, ok, err := ours.Get(t.Context(), room.String()); string(value) != `"v"` || !ok || err != nil {
		t.Errorf("%q, %v, %v", value, ok, err)
	}
}
