package expect_test

import (
	"fmt"
	"testing"

	"github.com/cacheaside/aside/internal/expect"
)

func TestInvalidated_IsExpectedToMissOnce(t *testing.T) {
	t.Parallel()
	m := expect.New()
	m.Invalidated([]string{"a", "b"})
	for _, key := range []string{"a", "b"} {
		if !m.Expect("s", key, false) {
			t.Errorf("%s was invalidated, and is not expected to miss", key)
		}
	}
	for _, key := range []string{"a", "b", "c"} {
		if m.Expect("s", key, false) {
			t.Errorf("%s is expected to miss", key)
		}
	}
}

func TestRate_FollowsItsKeyspace(t *testing.T) {
	t.Parallel()
	m := expect.New()
	see := func(space string, missed bool, n int) {
		for range n {
			m.Saw(space, missed)
		}
	}
	see("cold", true, 200)
	see("warm", false, 200)
	if !m.Expect("cold", "k", false) || m.Expect("warm", "k", false) || m.Expect("unknown", "k", false) {
		t.Errorf("expected to miss: cold %v, warm %v, unknown %v, want only cold", m.Expect("cold", "k", false), m.Expect("warm", "k", false), m.Expect("unknown", "k", false))
	}
	see("cold", false, 200)
	if m.Expect("cold", "k", false) {
		t.Error("it is expected to miss after 200 hits")
	}
	see("cold", true, 200)
	if !m.Expect("cold", "k", false) {
		t.Error("it is not expected to miss after 200 misses")
	}
}

// One miss in three is few.
func TestRate_OfSomeMissesIsNoExpectation(t *testing.T) {
	t.Parallel()
	m := expect.New()
	for i := range 1000 {
		m.Saw("mixed", i%3 == 0)
	}
	if m.Expect("mixed", "k", false) {
		t.Error("it is expected to miss")
	}
}

func TestSpaces_AreBounded(t *testing.T) {
	t.Parallel()
	m := expect.New()
	for i := range 2000 {
		for range 200 {
			m.Saw(fmt.Sprint(i), true)
		}
	}
	if !m.Expect("0", "k", false) || m.Expect("1999", "k", false) {
		t.Errorf("expected to miss: the first %v, the last of 2,000 %v, want only the first", m.Expect("0", "k", false), m.Expect("1999", "k", false))
	}
}

func TestMisses_Sure(t *testing.T) {
	t.Parallel()
	m := expect.New()
	for range 100 {
		m.Saw("s", true)
	}
	if m.Expect("s", "k", true) {
		t.Error("a miss is expected for sure of a key that was not invalidated")
	}
	m.Invalidated([]string{"k"})
	if !m.Expect("s", "k", true) || m.Expect("s", "k", true) {
		t.Error("a miss is not expected for sure exactly once of a key that was invalidated")
	}
}
