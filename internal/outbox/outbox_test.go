package outbox_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cacheaside/aside/internal/outbox"
)

// scope is of keys such as "a:1"; a key without a colon has none.
func scope(key string) string {
	name, _, ok := strings.Cut(key, ":")
	if !ok {
		return ""
	}
	return name + ":"
}

func all(string) bool { return false }

// due returns the keys that o would deliver now, in their order.
func due(o *outbox.Outbox) []string {
	var keys []string
	for _, d := range o.Due(all) {
		keys = append(keys, d.Key)
	}
	return keys
}

// expect compares what o distrusts among a:1, a:2, b:1 and c, and its Status.
func expect(t *testing.T, o *outbox.Outbox, distrusted string, queued int, overflowed bool) {
	t.Helper()
	var got []string
	for _, key := range []string{"a:1", "a:2", "b:1", "c"} {
		if o.Distrusts(key) {
			got = append(got, key)
		}
	}
	n, over := o.Status()
	if d := strings.Join(got, " "); d != distrusted || n != queued || over != overflowed {
		t.Errorf("got %q distrusted, %d queued, overflowed %v, want %q, %d, %v", d, n, over, distrusted, queued, overflowed)
	}
	if o.IsEmpty() && distrusted != "" {
		t.Errorf("got IsEmpty true while %q is distrusted", distrusted)
	}
}

func TestOutbox_DistrustsUntilDelivered(t *testing.T) {
	t.Parallel()
	o := outbox.New(10)
	expect(t, o, "", 0, false)
	o.Add([]string{"b:1", "a:1"}, scope)
	o.Add([]string{"b:1"}, scope) // once more
	expect(t, o, "a:1 b:1", 2, false)
	if got := due(o); !slices.Equal(got, []string{"a:1", "b:1"}) {
		t.Errorf("got %q due, want the one that waits for longest first: a:1 b:1", got)
	}
	rest := o.Due(func(key string) bool { return key == "a:1" })
	if len(rest) != 1 || rest[0].Key != "b:1" {
		t.Errorf("got %v due but for a:1, want b:1", rest)
	}
	o.Delivered(rest)
	expect(t, o, "a:1", 1, false)
	o.Delivered(rest) // a second time, which says nothing more
	o.Delivered(o.Due(all))
	expect(t, o, "", 0, false)
	if !o.IsEmpty() {
		t.Error("got IsEmpty false when all is delivered, want true")
	}
}

// A delivery that was begun before a key was added again is of a value before that.
func TestOutbox_AddedDuringDelivery(t *testing.T) {
	t.Parallel()
	o := outbox.New(10)
	o.Add([]string{"a:1"}, scope)
	sent := o.Due(all)
	o.Add([]string{"a:1"}, scope)
	o.Delivered(sent)
	expect(t, o, "a:1", 1, false)
	o.Delivered(o.Due(all))
	expect(t, o, "", 0, false)
}

// A key that is held is distrusted whatever is delivered, until each Hold has ended, and
// then while its invalidation is due.
func TestOutbox_Hold(t *testing.T) {
	t.Parallel()
	o := outbox.New(10)
	o.Hold([]string{"a:1", "a:2"})
	o.Hold([]string{"a:1"})
	expect(t, o, "a:1 a:2", 0, false)
	if got := due(o); len(got) != 0 {
		t.Errorf("got %q due, want none of what is only held", got)
	}
	o.Add([]string{"a:1"}, scope)
	o.Delivered(o.Due(all))
	expect(t, o, "a:1 a:2", 0, false)
	o.Release([]string{"a:1", "a:2"})
	expect(t, o, "a:1", 0, false)
	o.Add([]string{"a:1"}, scope)
	o.Release([]string{"a:1"})
	expect(t, o, "a:1", 1, false)
	o.Delivered(o.Due(all))
	expect(t, o, "", 0, false)
}

// Holding is not bounded, but a key that was held takes room like another one.
func TestOutbox_HeldKeysTakeRoom(t *testing.T) {
	t.Parallel()
	o := outbox.New(1)
	o.Hold([]string{"a:1", "a:2"})
	o.Add([]string{"a:1"}, scope)
	expect(t, o, "a:1 a:2", 1, false)
	o.Add([]string{"a:2"}, scope)
	expect(t, o, "a:1 a:2 b:1 c", 1, true)
}

// A key that finds no room is made good by a Clear of its scope that began after it came.
// Every key is distrusted until then.
func TestOutbox_Overflow(t *testing.T) {
	t.Parallel()
	o := outbox.New(1)
	o.Add([]string{"a:1", "a:2", "b:1"}, scope)
	expect(t, o, "a:1 a:2 b:1 c", 1, true)
	prefixes, seq := o.ToClear()
	if !slices.Equal(prefixes, []string{"a:", "b:"}) {
		t.Fatalf("got %q to clear, want a: b:", prefixes)
	}
	o.Add([]string{"b:2"}, scope) // while the Clear runs
	o.Cleared([]string{"a:", "b:"}, seq)
	if again, _ := o.ToClear(); !slices.Equal(again, []string{"b:"}) {
		t.Errorf("got %q to clear, want b:, of which a key has come since", again)
	}
	expect(t, o, "a:1 a:2 b:1 c", 1, true)
	_, seq = o.ToClear()
	o.Cleared([]string{"b:"}, seq)
	expect(t, o, "a:1", 1, false)
	o.Cleared([]string{"b:"}, seq) // nothing is owed any more
	o.Delivered(o.Due(all))
	expect(t, o, "", 0, false)
}

// A key that is in the outbox has its room: it does not overflow when it comes again.
func TestOutbox_AgainWhenFull(t *testing.T) {
	t.Parallel()
	o := outbox.New(1)
	o.Add([]string{"a:1"}, scope)
	o.Add([]string{"a:1"}, scope)
	expect(t, o, "a:1", 1, false)
}

// A key that no Clear makes good is kept up to twice the limit, and refused then.
func TestOutbox_KeysWithoutScope(t *testing.T) {
	t.Parallel()
	o := outbox.New(2)
	var keys []string
	for i := range 5 {
		keys = append(keys, fmt.Sprint("none", i))
	}
	if refused := o.Add(keys, scope); refused != 1 {
		t.Errorf("got %d of 5 refused, want 1", refused)
	}
	expect(t, o, "", 4, false)
	if refused := o.Add(keys[:4], scope); refused != 0 {
		t.Errorf("got %d refused of those that are kept, want 0", refused)
	}
	if o.Distrusts(keys[4]) || !o.Distrusts(keys[3]) {
		t.Error("want the keys that are kept distrusted, and not the one that was refused")
	}
}

func BenchmarkDistrusts(b *testing.B) {
	for name, held := range map[string]string{"empty": "", "another": "a:2", "same": "a:1"} {
		b.Run(name, func(b *testing.B) {
			o := outbox.New(10)
			if held != "" {
				o.Hold([]string{held})
			}
			b.ReportAllocs()
			for b.Loop() {
				o.Distrusts("a:1")
			}
		})
	}
}
