package aside_test

import (
	"context"
	"strings"
	"testing"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
)

// wrapped is a Cache that hands out another's methods.
type wrapped struct {
	aside.Cache
	more any
}

// A Cache that Open, NewRedis or New did not make is an error of every call that takes a
// Cache, which says so, and panics nowhere. In front of its backend New makes what
// they take.
func TestACacheThatNewWasNotCalledFor(t *testing.T) {
	t.Parallel()
	ours := open(t, aside.Config{Type: "memory", KeyPrefix: "app:"})
	for name, c := range map[string]aside.Cache{
		"of nothing":      wrapped{more: map[string]bool{}},
		"over ours":       wrapped{Cache: ours, more: []int{}},
		"embedded":        struct{ aside.Cache }{ours},
		"a pointer":       &wrapped{Cache: ours},
		"a nil pointer":   (*wrapped)(nil),
		"no Cache at all": nil,
	} {
		load := func(context.Context) (string, error) { return "loaded", nil }
		_, readErr := aside.GetOrLoad(t.Context(), c, room, load)
		_, generationsErr := aside.NewGenerations(c)
		_, _, ttlErr := ttlOf(t.Context(), c, room)
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
	over := must(aside.New(struct{ backend.Backend }{backendOf(ours)}, aside.Config{}))
	defer over.Close()
	read(t, over, func(context.Context) (string, error) { return "v", nil })
	if value, ok, err := ours.Get(t.Context(), room.String()); string(value) != `"v"` || !ok || err != nil {
		t.Errorf("%q, %v, %v", value, ok, err)
	}
}
