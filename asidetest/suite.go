// Package asidetest helps to test stores and services. [Run] checks that a
// [backend.Backend] keeps the contract of that interface. [Faulty] injects faults, so
// that a service's tests can see it through trouble of its cache.
//
// A store's test is one call:
//
//	func TestStore(t *testing.T) {
//		asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) backend.Backend { return newStore(t) }})
//	}
package asidetest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cacheaside/aside/backend"
)

// Harness is the suite's access to a backend under test.
type Harness struct {
	// New returns an empty backend for one test. Register its Close with t.Cleanup: the
	// suite closes it only in the case about Close, where yours is one more.
	New func(t *testing.T) backend.Backend

	// Advance makes d pass by the backend's clock. Set it for a backend with a clock that
	// tests control. Defaults to time.Sleep.
	Advance func(t *testing.T, d time.Duration)

	// StoresNothing says that the backend always misses and never grants a lease. The suite
	// then checks that instead. Defaults to false.
	StoresNothing bool
}

// Run runs the suite, one subtest per rule, each with a new backend. Rules about time
// wait for real, unless Advance is set.
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

// testCase is one rule, and the check for it.
type testCase struct {
	name string
	run  func(*test)
}

const (
	key = "chat_messages:A"
	ttl = 10 * time.Second
)

var value = []byte(`["hello"]`)

// storing are the rules for a backend that stores.
var storing = slices.Concat(ofValues, ofLeases, ofClaims, ofRefreshes, ofBlocks, ofClose)

// storingNothing are the rules for a backend that stores nothing.
var storingNothing = slices.Concat(ofNothing, ofClose)

var ofNothing = []testCase{
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

// ofClose is the rule about Close.
var ofClose = []testCase{
	{"CallsAfterCloseAreRefused", func(t *test) {
		t.set(key, value)
		t.step("the first Close")
		t.must(t.c.Close())
		ctx := t.Context()
		for name, call := range map[string]func() error{
			"Get":       func() error { _, _, err := t.c.Get(ctx, key); return err },
			"GetMarked": func() error { _, _, _, err := t.c.GetMarked(ctx, key); return err },
			"TTL":       func() error { _, _, err := t.c.TTL(ctx, key); return err },
			"Set":       func() error { return t.c.Set(ctx, key, value, ttl) },
			"Delete":    func() error { return t.c.Delete(ctx, key) },
			"Lease":     func() error { _, err := t.c.Lease(ctx, key, backend.LeaseRequest{TTL: ttl}); return err },
			"Lease of a claim": func() error {
				_, err := t.c.Lease(ctx, key, backend.LeaseRequest{TTL: ttl, Claim: []byte("1"), Owner: "mine"})
				return err
			},
			"Lease to refresh": func() error {
				_, err := t.c.Lease(ctx, key, backend.LeaseRequest{TTL: ttl, Refresh: &old})
				return err
			},
			"Extend":  func() error { _, err := t.c.Extend(ctx, "x", ttl, key); return err },
			"Fill":    func() error { _, err := t.c.Fill(ctx, key, "x", backend.Fill{Value: value, TTL: ttl}); return err },
			"Release": func() error { return t.c.Release(ctx, key, "x") },
			"Block":   func() error { return t.c.Block(ctx, "w", ttl, key) },
			"Unblock": func() error { return t.c.Unblock(ctx, "w", key) },
			"Clear":   func() error { return t.c.Clear(ctx, "chat_messages:") },
			"Info":    func() error { _, err := t.c.Info(ctx); return err },
		} {
			t.step("%s after Close", name)
			if err := call(); !errors.Is(err, backend.ErrClosed) {
				t.Errorf("got the error %v, want ErrClosed", err)
			}
		}
		t.step("the second Close")
		t.must(t.c.Close())
	}},
}
