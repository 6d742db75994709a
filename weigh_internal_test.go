package aside

import (
	"testing"
	"time"
)

// A value that is weighed anew, as it was decoded, does not come back when it was
// removed or replaced meanwhile.
func TestP1_AValueThatIsWeighedAnewDoesNotComeBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	m := newMemoryBackend(1 << 20)
	defer m.Close()
	n := newNear(1<<20, nil)
	defer n.close()
	n.dropAll(true)
	set := func(data string) (ofMemory, ofNear *stored) {
		if err := m.Set(ctx, "s:A", []byte(data), time.Minute); err != nil {
			t.Fatal(err)
		}
		ofMemory, _ = m.look("s:A")
		return ofMemory, n.keep("s:A", n.ask("s:A"), []byte(data))
	}
	ofMemory, ofNear := set("old")
	if !m.weigh("s:A", ofMemory) || !n.weigh("s:A", ofNear) {
		t.Error("what is there is not weighed")
	}
	_ = m.Delete(ctx, "s:A")
	n.drop("s:A")
	if m.weigh("s:A", ofMemory) || n.weigh("s:A", ofNear) {
		t.Error("what was removed is weighed")
	}
	if _, ok := m.look("s:A"); ok {
		t.Error("what was removed from the memory backend is there again")
	}
	if _, ok := n.look("s:A"); ok {
		t.Error("what was removed from the near cache is there again")
	}
	set("new")
	if m.weigh("s:A", ofMemory) || n.weigh("s:A", ofNear) {
		t.Error("what was replaced is weighed")
	}
	if s, _ := m.look("s:A"); string(s.data) != "new" {
		t.Errorf("the memory backend has %s", s.data)
	}
	if s, _ := n.look("s:A"); string(s.data) != "new" {
		t.Errorf("the near cache has %s", s.data)
	}
}
