package aside

// What can only be seen from inside: the slots of lease keys, and a backend of
// several shards without a Cluster.

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9/push"

	"github.com/cacheaside/aside/internal/entry"
	"github.com/cacheaside/aside/internal/near"
)

func TestSlotsAreThoseOfRedisCluster(t *testing.T) {
	t.Parallel()
	if crc := crc16("123456789"); crc != 0x31c3 { // the specification's own example
		t.Errorf("crc16: %#x", crc)
	}
	for key, slot := range map[string]int{"foo": 12182, "bar": 5061, "{foo}bar": 12182, "x{foo}{bar}": 12182} {
		if got := slotOf(key); got != slot {
			t.Errorf("slot of %q: %d, want %d", key, got, slot)
		}
	}
}

func FuzzLeaseKey(f *testing.F) {
	for _, id := range []string{"A", "{A}", "}{", "a{}b", "{", "}", "{}{A}", "A}:lease", ":lease", "lease:A", "대화방", ""} {
		f.Add("chat_messages:"+id, "chat_messages:A")
	}
	f.Fuzz(func(t *testing.T, key, other string) {
		for _, k := range []string{key, other} {
			name, _, ok := strings.Cut(k, ":")
			if !ok || checkName(name) != nil {
				return // no value key
			}
		}
		lease := leaseKey(key)
		if slotOf(lease) != slotOf(key) {
			t.Errorf("%q is in slot %d, its lease key %q in %d", key, slotOf(key), lease, slotOf(lease))
		}
		if back, ok := leasedKey(lease); !ok || back != key {
			t.Errorf("leasedKey(%q) = %q, %v, want %q", lease, back, ok, key)
		}
		if _, ok := leasedKey(key); ok || lease == other {
			t.Errorf("%q is a value's key, and taken for a lease's", key)
		}
		if key != other && lease == leaseKey(other) {
			t.Errorf("%q and %q share the lease key %q", key, other, lease)
		}
	})
}

// halfSick is a backend of two shards, one of which takes no blocks.
type halfSick struct{ Cache }

func (h halfSick) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error {
	if strings.HasPrefix(keys[0], "sick:") {
		return errors.New("away")
	}
	return h.Cache.Block(ctx, token, ttl, keys...)
}

// The keys whose shard is well stay blocked for as long as the write takes.
func TestAWriteBlockedInPartKeepsWhatItHas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg, err := Config{Type: TypeMemory}.withDefaults()
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
			l, err := memory.Lease(t.Context(), well.String(), LeaseRequest{TTL: time.Second})
			if err != nil || l.State != Writing {
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
type hung struct{ Cache }

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
		cfg, err := Config{Type: TypeMemory}.withDefaults()
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

func TestNear_WhatRedisSays(t *testing.T) {
	t.Parallel()
	n := near.New(1<<20, nearMaxAge)
	defer n.Close()
	node := &trackedNode{}
	tr := &tracking{near: n, nodes: map[string]*trackedNode{"node": node}, log: slog.New(slog.DiscardHandler)}
	tr.hears(node, true, nil)
	says := func(what any) {
		if err := tr.HandlePushNotification(t.Context(), push.NotificationHandlerContext{}, []any{"invalidate", what}); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		what string
		do   func()
		left string
	}{
		{"two of three keys have changed", func() { says([]any{"a", "c"}) }, "b"},
		{"all have changed", func() { says(nil) }, ""},
		{"the connection has broken", func() { tr.hears(node, false, io.EOF) }, ""},
		{"it is there again", func() { tr.hears(node, true, nil) }, ""},
	} {
		for _, key := range []string{"a", "b", "c"} {
			n.Keep(key, n.Begin(key), []byte("v"))
		}
		c.do()
		left := ""
		for _, key := range []string{"a", "b", "c"} {
			if _, ok := n.Get(key); ok {
				left += key
			}
		}
		if left != c.left {
			t.Errorf("when %s, %q are left, want %q", c.what, left, c.left)
		}
	}
}

// What was sent is not kept until the line is empty.
func TestALineForgetsWhatWasSent(t *testing.T) {
	p := &pipeline{lanes: lanes{per: scriptLane, busy: 1}}
	freed := make(chan int, 2*maxPipeline)
	for i := range 2 * maxPipeline {
		value := make([]byte, 1000)
		runtime.AddCleanup(&value[0], func(i int) { freed <- i }, i)
		p.line = append(p.line, &scriptCall{ctx: t.Context(), args: []any{value}})
	}
	if n := len(p.next()); n != maxPipeline {
		t.Fatalf("%d go together", n)
	}
	for range maxPipeline {
		runtime.GC()
		select {
		case <-freed:
		case <-time.After(10 * time.Second):
			t.Fatal("what was sent is kept")
		}
	}
	runtime.KeepAlive(p)
}

// An entry that is weighed anew, as it was decoded, does not come back when it was
// removed or replaced meanwhile.
func TestP1_AValueThatIsWeighedAnewDoesNotComeBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	m := newMemoryBackend(1 << 20)
	defer m.Close()
	set := func(data string) *entry.Entry {
		if err := m.Set(ctx, "s:A", []byte(data), time.Minute); err != nil {
			t.Fatal(err)
		}
		e, _ := m.entry("s:A")
		return e
	}
	old := set("old")
	if !m.reweigh("s:A", old) {
		t.Error("an entry that is there is not weighed")
	}
	_ = m.Delete(ctx, "s:A")
	if m.reweigh("s:A", old) {
		t.Error("an entry that was removed is weighed")
	}
	if _, ok := m.entry("s:A"); ok {
		t.Error("an entry that was removed is there again")
	}
	set("new")
	if m.reweigh("s:A", old) {
		t.Error("an entry that was replaced is weighed")
	}
	if e, _ := m.entry("s:A"); string(e.Data) != "new" {
		t.Errorf("got %s, want new", e.Data)
	}
}
