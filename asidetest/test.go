package asidetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/cacheaside/aside/backend"
)

// test is the backend of one case, with methods that fail the test on an error or on
// another answer than the one wanted.
type test struct {
	*testing.T
	h Harness
	c backend.Backend
}

func (t *test) Context() context.Context { return t.T.Context() }

func (t *test) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t *test) want(what string, got, want any) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func (t *test) set(key string, value []byte) {
	t.Helper()
	t.must(t.c.Set(t.Context(), key, value, ttl))
}

func (t *test) wantMiss(key string) {
	t.Helper()
	got, ok, err := t.c.Get(t.Context(), key)
	t.must(err)
	if ok {
		t.Fatalf("Get(%.80q): hit %.80q, want a miss", key, got)
	}
}

func (t *test) wantHit(key string, want []byte) {
	t.Helper()
	got, ok, err := t.c.Get(t.Context(), key)
	t.must(err)
	if !ok || !bytes.Equal(got, want) {
		t.Fatalf("Get(%.80q): %.80q, %v; want a hit, %.80q", key, got, ok, want)
	}
}

func (t *test) lease(key string, want backend.LeaseState) backend.Lease {
	t.Helper()
	l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl})
	t.must(err)
	t.want("state of the lease", l.State, want)
	return l
}

func (t *test) granted(key string) (token string) {
	t.Helper()
	l := t.lease(key, backend.Granted)
	if l.Token == "" {
		t.Fatal("granted a lease without a token")
	}
	return l.Token
}

func (t *test) refresh(key string, r backend.Refresh, want backend.LeaseState) backend.Lease {
	t.Helper()
	l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Refresh: &r})
	t.must(err)
	t.want("state of the lease to refresh", l.State, want)
	return l
}

func (t *test) mark(key string) backend.Mark {
	t.Helper()
	_, mark, ok, err := t.c.GetMarked(t.Context(), key)
	t.must(err)
	t.want("GetMarked finds a value", ok, true)
	return mark
}

func (t *test) wantMark(key string, want backend.Mark) {
	t.Helper()
	t.want("mark", t.mark(key), want)
}

func (t *test) filled(key, token string, fill backend.Fill) {
	t.Helper()
	stored, err := t.c.Fill(t.Context(), key, token, fill)
	t.must(err)
	t.want("stored", stored, true)
}

func (t *test) claim(want backend.LeaseState) (token string) {
	t.Helper()
	l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Claim: []byte("1"), Owner: rand.Text()})
	t.must(err)
	t.want("state of the claim", l.State, want)
	return l.Token
}

func (t *test) fill(key, token string, value []byte, want bool) {
	t.Helper()
	stored, err := t.c.Fill(t.Context(), key, token, backend.Fill{Value: value, TTL: ttl})
	t.must(err)
	t.want("stored", stored, want)
}

func (t *test) extend(key, token string, want bool) {
	t.Helper()
	t.want("held", t.extended(token, key), want)
}

func (t *test) extended(token string, keys ...string) (held bool) {
	t.Helper()
	held, err := t.c.Extend(t.Context(), token, ttl, keys...)
	t.must(err)
	return held
}

// brief checks something that lasts for d: do makes it and reports whether it is there
// before d is over. Then brief lets d pass. On a machine too slow for d, where do reports
// false because d has passed, brief tries again with twice the time, so that the test
// fails for no other reason than a wrong backend.
func (t *test) brief(do func(d time.Duration) (there bool)) {
	t.Helper()
	d := 300 * time.Millisecond
	for start := time.Now(); !do(d); start = time.Now() {
		if time.Since(start) < d {
			t.Fatalf("it ended before its %v were over", d)
		}
		d *= 2
	}
	t.h.Advance(t.T, d+100*time.Millisecond)
}
