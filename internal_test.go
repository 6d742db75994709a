package aside

// What can only be seen from inside: a backend of several shards without a Cluster,
// and a near cache.

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/backend"
)

// halfSick is a backend of two shards, one of which takes no blocks.
type halfSick struct{ backend.Backend }

func (h halfSick) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error {
	if strings.HasPrefix(keys[0], "sick:") {
		return errors.New("away")
	}
	return h.Backend.Block(ctx, token, ttl, keys...)
}

// The keys whose shard is well stay blocked for as long as the write takes.
func TestAWriteBlockedInPartKeepsWhatItHas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg, err := Config{Type: typeMemory}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		memory := newMemoryBackend(1 << 20)
		f := newFront(halfSick{memory}, cfg)
		f.shardOf = func(key string) string { name, _, _ := strings.Cut(key, ":"); return name }
		defer f.Close()
		well, sick := Keyspace{Name: "well"}.Key("1"), Keyspace{Name: "sick"}.Key("1")
		err = Update(t.Context(), f, func(context.Context) error {
			time.Sleep(time.Minute)
			l, err := memory.Lease(t.Context(), well.String(), backend.LeaseRequest{TTL: time.Second})
			if err != nil || l.State != backend.Writing {
				t.Errorf("after a minute the well key is %v, %v", l.State, err)
			}
			if !Pending(f, sick) || Pending(f, well) {
				t.Error("the sick key is to be distrusted while the write runs, the well one is not")
			}
			return nil
		}, well, sick)
		if err != nil || Pending(f, sick) {
			t.Errorf("err %v, pending %v", err, Pending(f, sick))
		}
	})
}

// hung is a backend of two shards that take no block and lift none.
type hung struct{ backend.Backend }

func (hung) Block(ctx context.Context, _ string, _ time.Duration, _ ...string) error {
	<-ctx.Done()
	return ctx.Err()
}

func (hung) Unblock(ctx context.Context, _ string, _ ...string) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestP5_OneBudgetForAWriteOfSeveralShards(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg, err := Config{Type: typeMemory}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		f := newFront(hung{newMemoryBackend(1 << 20)}, cfg)
		f.shardOf = func(key string) string { name, _, _ := strings.Cut(key, ":"); return name }
		defer f.Close()
		start := time.Now()
		err = Update(t.Context(), f, func(context.Context) error { return nil }, Keyspace{Name: "one"}.Key("1"), Keyspace{Name: "two"}.Key("1"))
		if took := time.Since(start); err != nil || took > cfg.Timeout {
			t.Errorf("err %v after %v", err, took)
		}
		time.Sleep(time.Second) // delivered
	})
}

// What the tests of the near cache see dropped was dropped for its reason, however
// slow the machine, and not for its age.
func init() { nearMaxAge = time.Hour }

// Nothing is served for longer than the age that is promised, also when nobody says
// that it has changed; and nothing that was asked for before a change is kept.
func TestNear_WhatIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNear(1<<20, nil)
		defer n.close()
		kept := func(between func()) bool {
			before := n.ask("k")
			between()
			n.keep("k", before, []byte("v"))
			_, ok := n.look("k")
			return ok
		}
		if kept(func() {}) {
			t.Error("kept while no changes are heard")
		}
		n.dropAll(true)
		if !kept(func() {}) {
			t.Error("not kept")
		}
		time.Sleep(nearMaxAge - time.Second)
		if _, ok := n.look("k"); !ok {
			t.Error("forgotten too soon")
		}
		time.Sleep(2 * time.Second)
		if _, ok := n.look("k"); ok {
			t.Error("served for longer than nearMaxAge")
		}
		for what, change := range map[string]func(){
			"its key changed":             func() { n.drop("k") },
			"all keys changed":            func() { n.forgetAll() },
			"changes went unheard":        func() { n.dropAll(false); n.dropAll(true) },
			"changes are not heard since": func() { n.dropAll(false) },
		} {
			n.dropAll(true)
			if kept(change) {
				t.Errorf("kept although %s since it was asked for", what)
			}
			n.dropAll(true)
			kept(func() {})
			change()
			if _, ok := n.look("k"); ok {
				t.Errorf("served although %s", what)
			}
		}
	})
}
