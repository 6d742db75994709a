package aside

// Tests that need the inside of the package: a backend of several shards without a Cluster,
// and a near cache.

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/entry"
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

// A value that the tests of the near cache see dropped must have been dropped for their
// reason and not for its age, however slow the machine.
func init() { nearMaxAge = time.Hour }

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
		return &e.Entry
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
