// Package asidetest checks implementations of [backend.Backend], and makes faulty
// ones for tests.
package asidetest

import (
	"slices"
	"testing"
	"time"

	"github.com/cacheaside/aside/backend"
)

// Harness is what the suite needs of a backend under test.
type Harness struct {
	// New returns an empty backend, for one test, which the suite does not close.
	New func(t *testing.T) backend.Backend

	// Advance lets d pass by the backend's clock. Defaults to time.Sleep.
	Advance func(t *testing.T, d time.Duration)

	// StoresNothing says that the backend is one that misses always and never
	// grants a lease; the suite then checks that.
	StoresNothing bool
}

// Run runs the suite: one subtest per rule, each with a backend of its own.
func Run(t *testing.T, h Harness) {
	if h.Advance == nil {
		h.Advance = func(_ *testing.T, d time.Duration) { time.Sleep(d) }
	}
	cases := storing
	if h.StoresNothing {
		cases = storingNothing
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.run(&test{T: t, h: h, c: h.New(t)})
		})
	}
}

type testCase struct {
	name string
	run  func(*test)
}

const (
	key = "chat_messages:A"
	ttl = 10 * time.Second
)

var value = []byte(`["hello"]`)

// storing are the rules of a backend that stores.
var storing = slices.Concat(ofValues, ofLeases, ofRefreshes, ofBlocks)

var storingNothing = []testCase{
	{"StoresNothing", func(t *test) {
		t.set(key, value)
		t.wantMiss(key)
		if _, _, ok, err := t.c.GetMarked(t.Context(), key); ok || err != nil {
			t.Errorf("GetMarked: %v, %v; want a miss", ok, err)
		}
		t.lease(key, backend.Writing)
		t.fill(key, "x", value, false)
		t.must(t.c.Release(t.Context(), key, "x"))
		t.must(t.c.Delete(t.Context(), key))
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.must(t.c.Unblock(t.Context(), "w", key))
		t.must(t.c.Clear(t.Context(), "chat_messages:"))
		_, err := t.c.Info(t.Context())
		t.must(err)
	}},
}
