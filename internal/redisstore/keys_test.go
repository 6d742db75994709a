package redisstore

import (
	"strings"
	"testing"
)

func TestSlotsAreThoseOfRedisCluster(t *testing.T) {
	t.Parallel()
	if crc := crc16("123456789"); crc != 0x31c3 { // the specification's own example
		t.Errorf("crc16: %#x", crc)
	}
	for key, slot := range map[string]int{"foo": 12182, "bar": 5061, "{foo}bar": 12182, "x{foo}{bar}": 12182} {
		if got := SlotOf(key); got != slot {
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
			if !ok || name == "" || name == "lease" || strings.ContainsAny(name, "{}") {
				return // no value key
			}
		}
		lease := LeaseKey(key)
		if SlotOf(lease) != SlotOf(key) {
			t.Errorf("%q is in slot %d, its lease key %q in %d", key, SlotOf(key), lease, SlotOf(lease))
		}
		if back, ok := LeasedKey(lease); !ok || back != key {
			t.Errorf("LeasedKey(%q) = %q, %v, want %q", lease, back, ok, key)
		}
		if _, ok := LeasedKey(key); ok || lease == other {
			t.Errorf("%q is a value's key, and taken for a lease's", key)
		}
		if key != other && lease == LeaseKey(other) {
			t.Errorf("%q and %q share the lease key %q", key, other, lease)
		}
		block := BlockKey(key)
		if SlotOf(block) != SlotOf(key) {
			t.Errorf("%q is in slot %d, its block key %q in %d", key, SlotOf(key), block, SlotOf(block))
		}
		if leased, ok := LeasedKey(block); ok || block == other {
			t.Errorf("%q is a block key, and taken for the lease key of %q, or a value's key", block, leased)
		}
		if key != other && block == BlockKey(other) {
			t.Errorf("%q and %q share the block key %q", key, other, block)
		}
	})
}
