package near_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/internal/near"
)

const maxAge = 10 * time.Second

// Nothing is served for longer than the age that is promised, also when nobody says
// that it has changed; and nothing that was asked for before a change is kept.
func TestCache_WhatIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := near.New(1<<20, maxAge)
		defer n.Close()
		kept := func(between func()) bool {
			before := n.Begin("k")
			between()
			n.Keep("k", before, []byte("v"), false)
			_, _, ok := n.Get("k")
			return ok
		}
		if kept(func() {}) {
			t.Error("kept while no changes are heard")
		}
		n.Coherent(true)
		if !kept(func() {}) {
			t.Error("not kept")
		}
		time.Sleep(maxAge - time.Second)
		if _, _, ok := n.Get("k"); !ok {
			t.Error("forgotten too soon")
		}
		time.Sleep(2 * time.Second)
		if _, _, ok := n.Get("k"); ok {
			t.Error("served for longer than maxAge")
		}
		for what, change := range map[string]func(){
			"its key changed":             func() { n.Drop("k") },
			"all keys changed":            func() { n.ForgetAll() },
			"changes went unheard":        func() { n.Coherent(false); n.Coherent(true) },
			"changes are not heard since": func() { n.Coherent(false) },
		} {
			n.Coherent(true)
			if kept(change) {
				t.Errorf("kept although %s since it was asked for", what)
			}
			n.Coherent(true)
			kept(func() {})
			change()
			if _, _, ok := n.Get("k"); ok {
				t.Errorf("served although %s", what)
			}
		}
	})
}

// A value that is weighed anew, as it was decoded, does not come back when it was removed
// or replaced meanwhile, and is served for no longer than it would have been.
func TestCache_Reweigh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := near.New(1<<20, maxAge)
		defer c.Close()
		c.Coherent(true)
		value := 1
		old := c.Keep("k", c.Begin("k"), []byte("old"), false)
		time.Sleep(maxAge - time.Second)
		if old.Remember(&value, 8); !c.Reweigh("k", old) {
			t.Error("a value that is there is not weighed")
		}
		time.Sleep(2 * time.Second)
		if _, _, ok := c.Get("k"); ok {
			t.Error("served for longer, as it was weighed anew")
		}
		old = c.Keep("k", c.Begin("k"), []byte("old"), false)
		c.Drop("k")
		if c.Reweigh("k", old) {
			t.Error("a value that was dropped is weighed")
		}
		if _, _, ok := c.Get("k"); ok {
			t.Error("a value that was dropped is there again")
		}
		c.Keep("k", c.Begin("k"), []byte("new"), false)
		if c.Reweigh("k", old) {
			t.Error("a value that was replaced is weighed")
		}
		if e, _, ok := c.Get("k"); !ok || string(e.Data) != "new" {
			t.Errorf("got %v, %v, want new", e, ok)
		}
	})
}

// A Redis without a near cache has a nil one, which is told all the same.
func TestCache_Nil(t *testing.T) {
	t.Parallel()
	var c *near.Cache
	c.Drop("k")
	c.Coherent(true)
	c.ForgetAll()
	if c.Reweigh("k", nil) {
		t.Error("weighed by no cache")
	}
}
