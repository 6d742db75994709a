package entry_test

import (
	"testing"

	"github.com/maypok86/otter/v2"

	"github.com/cacheaside/aside/internal/entry"
)

func TestEntry_RemembersOneValueOfOneType(t *testing.T) {
	t.Parallel()
	e := &entry.Entry{Data: []byte("[1]")}
	if _, ok := entry.As[[]int](e); ok || e.Decoded() {
		t.Error("decoded before anybody has")
	}
	before := entry.Bytes("k", e)
	value := []int{1}
	if !e.Remember(&value, 1000) || e.Remember(new([]int), 5) {
		t.Error("the first value is to be remembered, and no other")
	}
	if got, ok := entry.As[[]int](e); !ok || got != &value {
		t.Errorf("got %p, want the value that was decoded first, %p", got, &value)
	}
	if _, ok := entry.As[any](e); ok {
		t.Error("a []int is taken for an any")
	}
	if n := entry.Bytes("k", e); n != before+1000 {
		t.Errorf("weighs %d, want %d and the value's 1000", n, before)
	}
}

func TestEntry_TooLargeToBeRemembered(t *testing.T) {
	t.Parallel()
	e := &entry.Entry{Data: []byte("[1]")}
	before := entry.Bytes("k", e)
	if e.Remember(nil, 0) || !e.Decoded() || entry.Bytes("k", e) != before {
		t.Error("an entry whose value is too large is decoded, without a value and its weight")
	}
	if _, ok := entry.As[[]int](e); ok || e.Remember(new([]int), 8) {
		t.Error("a value is remembered after it was found too large")
	}
}

type element struct{ entry.Entry }

func TestReweigh(t *testing.T) {
	t.Parallel()
	cache := otter.Must(&otter.Options[string, *element]{MaximumWeight: 1 << 20,
		Weigher: func(key string, e *element) uint32 { return entry.Weight(key, &e.Entry) }})
	defer cache.StopAllGoroutines()
	set := func(data string) *element {
		e := &element{entry.Entry{Data: []byte(data)}}
		cache.Set("k", e)
		return e
	}
	reweigh := func(want *element) bool {
		return entry.Reweigh(cache, "k", func(e *element) bool { return e == want })
	}
	old := set("old")
	weighs := func() uint64 { cache.CleanUp(); return cache.WeightedSize() }
	before := weighs()
	old.Remember(new(int), 1000)
	if !reweigh(old) || weighs() != before+1000 {
		t.Errorf("weighs %d, want %d and the value's 1000", weighs(), before)
	}
	cache.Invalidate("k")
	if reweigh(old) {
		t.Error("an element that was removed is weighed")
	}
	if _, ok := cache.GetIfPresent("k"); ok {
		t.Error("an element that was removed is there again")
	}
	set("new")
	if reweigh(old) {
		t.Error("an element that was replaced is weighed")
	}
	if e, ok := cache.GetIfPresent("k"); !ok || string(e.Data) != "new" {
		t.Error("an element that was replaced is there again")
	}
}

func TestMemo(t *testing.T) {
	t.Parallel()
	m := entry.NewMemo(1 << 20)
	e := m.Get("k", []byte("one"))
	e.Remember(new(int), 8)
	if again := m.Get("k", []byte("one")); again == e {
		t.Error("an entry is kept that nobody has asked to keep")
	}
	m.Keep("k", e)
	if again := m.Get("k", []byte("one")); again != e {
		t.Error("the same bytes are another entry")
	}
	for _, other := range []*entry.Entry{m.Get("k", []byte("two")), m.Get("l", []byte("one"))} {
		if other == e {
			t.Error("other bytes, or those of another key, are the same entry")
		}
	}
	m.ForgetAll()
	if again := m.Get("k", []byte("one")); again == e {
		t.Error("an entry is kept that was to be forgotten")
	}
}
