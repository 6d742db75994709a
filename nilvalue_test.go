package aside_test

import (
	"context"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
)

// nilled is a backend of a user's that hands out an empty value as nil, as one on a
// database driver may. Where misses is not 0, that many of its Gets find nothing.
type nilled struct {
	backend.Backend
	misses int
}

func (n *nilled) Get(ctx context.Context, key string) ([]byte, bool, error) {
	value, ok, err := n.Backend.Get(ctx, key)
	if n.misses > 0 {
		n.misses--
		return nil, false, err
	}
	if len(value) == 0 {
		value = nil
	}
	return value, ok, err
}

func (n *nilled) Lease(ctx context.Context, key string, req backend.LeaseRequest) (backend.Lease, error) {
	lease, err := n.Backend.Lease(ctx, key, req)
	if len(lease.Value) == 0 {
		lease.Value = nil
	}
	return lease, err
}

// An empty value that a backend hands out as nil is a value: it is replaced when it does
// not decode, and served when it does.
func TestP8_AnEmptyValueThatIsNil(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		codec  aside.Codec
		misses int
		loads  int64
		want   string
	}{
		"JSON":                        {nil, 0, 1, "loaded"},
		"JSON, found with the lease":  {nil, 1, 1, "loaded"},
		"bytes":                       {aside.Bytes, 0, 0, ""},
		"bytes, found with the lease": {aside.Bytes, 1, 0, ""},
	} {
		store := &nilled{asidetest.Memory(), tt.misses}
		c := must(aside.New(store, aside.Config{}))
		t.Cleanup(func() { c.Close() })
		key := aside.Keyspace{Name: "nil", Codec: tt.codec}.Key("1")
		if err := c.Set(t.Context(), key.String(), []byte{}, time.Minute); err != nil {
			t.Fatal(err)
		}
		loads := int64(0)
		for range 5 {
			got, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { loads++; return "loaded", nil })
			if err != nil || got != tt.want {
				t.Fatalf("%s: got %q, %v; want %q", name, got, err, tt.want)
			}
		}
		if value, ok, err := c.Get(t.Context(), key.String()); loads != tt.loads || !ok || value == nil || err != nil {
			t.Errorf("%s: %d loads, want %d; stored %q, %v, %v", name, loads, tt.loads, value, ok, err)
		}
	}
}
