package asidetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/cacheaside/aside/backend"
)

// test is the backend of one case, with methods that fail the test on an error or on
// another answer than the one wanted.
type test struct {
	*testing.T
	h  Harness
	c  backend.Backend
	at string // see step
}

func (t *test) Context() context.Context { return t.T.Context() }

// step names the part of the case that follows, for the messages of its failures: an
// author of a store should not have to look up a line of the suite to understand them.
func (t *test) step(format string, args ...any) { t.at = fmt.Sprintf(format, args...) + ": " }

// Errorf is that of testing.T, with the step before the message.
func (t *test) Errorf(format string, args ...any) {
	t.Helper()
	t.T.Error(t.at + fmt.Sprintf(format, args...))
}

// Fatalf is that of testing.T, with the step before the message.
func (t *test) Fatalf(format string, args ...any) {
	t.Helper()
	t.T.Fatal(t.at + fmt.Sprintf(format, args...))
}

// must fails the test on an error.
func (t *test) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// want fails the test unless got is want.
func (t *test) want(subject string, got, want any) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", subject, got, want)
	}
}

// set stores value for ttl.
func (t *test) set(key string, value []byte) {
	t.Helper()
	t.must(t.c.Set(t.Context(), key, value, ttl))
}

// wantMiss fails the test if key has a value.
func (t *test) wantMiss(key string) {
	t.Helper()
	got, ok, err := t.c.Get(t.Context(), key)
	t.must(err)
	if ok {
		t.Fatalf("Get(%.80q): hit %.80q, want a miss", key, got)
	}
}

// wantHit fails the test unless key has the value want.
func (t *test) wantHit(key string, want []byte) {
	t.Helper()
	got, ok, err := t.c.Get(t.Context(), key)
	t.must(err)
	if !ok || !bytes.Equal(got, want) {
		t.Fatalf("Get(%.80q): %.80q, %v; want a hit, %.80q", key, got, ok, want)
	}
}

// lease asks for a lease and fails the test unless the answer has the state want.
func (t *test) lease(key string, want backend.LeaseState) backend.Lease {
	t.Helper()
	l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl})
	t.must(err)
	t.want("state of the lease", l.State, want)
	return l
}

// granted asks for a lease, which must be granted, and returns its token.
func (t *test) granted(key string) (token string) {
	t.Helper()
	l := t.lease(key, backend.Granted)
	if l.Token == "" {
		t.Fatalf("granted a lease without a token")
	}
	return l.Token
}

// refresh asks for a lease to refresh key, and fails the test unless the answer has the
// state want.
func (t *test) refresh(key string, r backend.Refresh, want backend.LeaseState) backend.Lease {
	t.Helper()
	l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Refresh: &r})
	t.must(err)
	t.want("state of the lease to refresh", l.State, want)
	return l
}

// mark returns the mark of key, which must have a value.
func (t *test) mark(key string) backend.Mark {
	t.Helper()
	_, mark, ok, err := t.c.GetMarked(t.Context(), key)
	t.must(err)
	t.want("whether GetMarked finds a value", ok, true)
	return mark
}

func (t *test) wantMark(key string, want backend.Mark) {
	t.Helper()
	t.want("mark", t.mark(key), want)
}

// filled fills under token, which must succeed.
func (t *test) filled(key, token string, fill backend.Fill) {
	t.Helper()
	stored, err := t.c.Fill(t.Context(), key, token, fill)
	t.must(err)
	t.want("stored", stored, true)
}

// claim makes a claim on key with a new owner, and returns its token.
func (t *test) claim(want backend.LeaseState) (token string) {
	t.Helper()
	l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Claim: []byte("1"), Owner: rand.Text()})
	t.must(err)
	t.want("state of the claim", l.State, want)
	return l.Token
}

// fill fills under token, and checks whether it is stored.
func (t *test) fill(key, token string, value []byte, want bool) {
	t.Helper()
	stored, err := t.c.Fill(t.Context(), key, token, backend.Fill{Value: value, TTL: ttl})
	t.must(err)
	t.want("stored", stored, want)
}

// extend extends the lease of token, and checks whether it is held.
func (t *test) extend(key, token string, want bool) {
	t.Helper()
	t.want("held", t.extended(token, key), want)
}

// extended extends the lease of token on keys, and reports whether it is held on all.
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
