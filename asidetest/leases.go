package asidetest

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cacheaside/aside/backend"
)

// ofLeases are the rules about leases, the memory of failed loads, and not-found markers.
var ofLeases = []testCase{
	{"LeaseThenFill", func(t *test) {
		token := t.granted(key)
		t.step("a leased key")
		t.wantMiss(key)
		t.step("after Fill")
		t.fill(key, token, value, true)
		t.wantHit(key, value)
	}},
	{"FilledValueExpires", func(t *test) {
		token := t.granted(key)
		stored, err := t.c.Fill(t.Context(), key, token, backend.Fill{Value: value, TTL: 300 * time.Millisecond})
		t.must(err)
		t.want("stored", stored, true)
		t.h.Advance(t.T, 400*time.Millisecond)
		t.wantMiss(key)
	}},
	{"LeaseOfAPresentKeyIsItsValue", func(t *test) {
		t.set(key, value)
		if l := t.lease(key, backend.Present); !bytes.Equal(l.Value, value) {
			t.Errorf("Lease value %q, want %q", l.Value, value)
		}
	}},
	{"OneLeaseAtATime", func(t *test) {
		token := t.granted(key)
		if l := t.lease(key, backend.Loading); l.Token != token {
			t.Errorf("Lease token %q, want the holder's, %q", l.Token, token)
		}
	}},
	{"FillNeedsTheToken", func(t *test) {
		t.granted(key)
		t.step("a Fill with another token")
		t.fill(key, "another", value, false)
		t.step("a Fill with no token")
		t.fill(key, "", value, false)
		t.wantMiss(key)
	}},
	{"FillEndsTheLease", func(t *test) {
		token := t.granted(key)
		t.step("the first Fill")
		t.fill(key, token, value, true)
		t.step("the second Fill")
		t.fill(key, token, []byte("again"), false)
		t.wantHit(key, value)
	}},
	{"FillAfterDeleteIsRefused", func(t *test) {
		token := t.granted(key)
		t.must(t.c.Delete(t.Context(), key))
		t.fill(key, token, value, false)
		t.wantMiss(key)
	}},
	{"FillAfterSetIsRefused", func(t *test) {
		token := t.granted(key)
		t.set(key, []byte("newer"))
		t.fill(key, token, value, false)
		t.wantHit(key, []byte("newer"))
	}},
	{"FillUnderTheNextLeaseIsRefused", func(t *test) {
		old := t.granted(key)
		t.must(t.c.Delete(t.Context(), key))
		token := t.granted(key)
		if token == old {
			t.Fatalf("the token %q was granted twice", token)
		}
		t.step("a Fill with the token of the lease that Delete ended")
		t.fill(key, old, []byte("old"), false)
		t.step("a Fill with the next lease's token")
		t.fill(key, token, value, true)
		t.wantHit(key, value)
	}},
	{"LeasesExpire", func(t *test) {
		l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: 300 * time.Millisecond})
		t.must(err)
		t.h.Advance(t.T, 400*time.Millisecond)
		t.step("after the lease has expired")
		t.fill(key, l.Token, value, false)
		t.extend(key, l.Token, false)
		t.granted(key)
	}},
	{"AnExpiredLeaseIsReplacedBesideAFreshMark", func(t *test) {
		// The memory of a failed load outlives the lease, so the backend still has a
		// state of the key when the lease expires.
		t.must(t.c.Release(t.Context(), key, t.granted(key)))
		l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: 300 * time.Millisecond})
		t.must(err)
		t.want("state", l.State, backend.Granted)
		t.h.Advance(t.T, 400*time.Millisecond)
		t.step("after the lease has expired")
		t.extend(key, l.Token, false)
		t.fill(key, l.Token, value, false)
		t.step("the next lease")
		token := t.granted(key)
		t.lease(key, backend.Loading)
		t.fill(key, token, value, true)
		t.wantHit(key, value)
	}},
	{"ExtendKeepsALease", func(t *test) {
		var l backend.Lease
		t.brief(func(d time.Duration) bool {
			var err error
			l, err = t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: d})
			t.must(err)
			return t.extended(l.Token, key)
		})
		t.fill(key, l.Token, value, true)
	}},
	{"ExtendNeedsTheToken", func(t *test) {
		t.step("Extend of a key without a lease")
		t.extend(key, "nobody", false)
		t.step("Extend with no token, of a key with a failed load and a block")
		t.must(t.c.Release(t.Context(), key, t.granted(key)))
		t.extend(key, "", false)
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.extend(key, "", false)
		t.must(t.c.Unblock(t.Context(), "w", key))
		t.step("Extend with another token")
		t.granted(key)
		t.extend(key, "another", false)
	}},
	{"ReleaseLetsTheNextLoad", func(t *test) {
		token := t.granted(key)
		t.step("Release with another token")
		t.must(t.c.Release(t.Context(), key, "another"))
		t.lease(key, backend.Loading)
		t.step("Release with the lease's token")
		t.must(t.c.Release(t.Context(), key, token))
		t.fill(key, token, value, false)
		t.granted(key)
	}},
	{"WhoWaitedForAFailedLoadDoesNotWaitAgain", func(t *test) {
		for name, next := range map[string]backend.LeaseRequest{
			"a lease":             {TTL: ttl},
			"a lease with Always": {TTL: ttl, Refresh: &backend.Refresh{Always: true}},
		} {
			for {
				start := time.Now()
				t.must(t.c.Delete(t.Context(), key))
				failed := t.granted(key)
				t.must(t.c.Release(t.Context(), key, failed))
				t.step("%s after a load that failed", name)
				l, err := t.c.Lease(t.Context(), key, next)
				t.must(err)
				t.want("state", l.State, backend.Granted)
				t.lease(key, backend.Loading) // a caller that did not wait for the failed load waits
				l, err = t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, WaitedFor: failed})
				t.must(err)
				if l.State != backend.Loading || time.Since(start) < time.Second {
					t.want("state of a lease, WaitedFor the failed one", l.State, backend.Unleased)
					break
				} // else too slow: the failure is forgotten, so try again
			}
		}
	}},
	{"AFailedLoadIsForgottenAfterItsTime", func(t *test) {
		const other = "chat_messages:B"
		start := time.Now()
		failed, failedToo := t.granted(key), t.granted(other)
		t.must(t.c.Release(t.Context(), key, failed))
		t.must(t.c.Release(t.Context(), other, failedToo))
		t.h.Advance(t.T, backend.FailedFor-500*time.Millisecond)
		t.step("shortly before FailedFor is over")
		t.granted(key)
		l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, WaitedFor: failed})
		t.must(err)
		if time.Since(start) < backend.FailedFor { // or this machine is slow
			t.want("state of a lease, WaitedFor the failed one", l.State, backend.Unleased)
		}
		t.h.Advance(t.T, 600*time.Millisecond)
		t.step("after FailedFor is over")
		t.granted(other)
		l, err = t.c.Lease(t.Context(), other, backend.LeaseRequest{TTL: ttl, WaitedFor: failedToo})
		t.must(err)
		t.want("state of a lease, WaitedFor the failed one", l.State, backend.Loading)
	}},
	{"DeadlineTellsRenewalsApart", func(t *test) {
		for _, kind := range []struct {
			name    string
			request backend.LeaseRequest
		}{
			{"a lease", backend.LeaseRequest{TTL: ttl}},
			{"a lease to refresh", backend.LeaseRequest{TTL: ttl, Refresh: &old}},
		} {
			t.step("%s", kind.name)
			t.must(t.c.Delete(t.Context(), key))
			if kind.request.Refresh != nil {
				t.set(key, value)
			}
			holder, err := t.c.Lease(t.Context(), key, kind.request)
			t.must(err)
			t.want("state", holder.State, backend.Granted)
			seen := make(map[string]bool)
			for renewals, lasts := range []time.Duration{ttl, ttl, 2 * ttl, ttl, ttl} {
				t.step("%s, renewed %d times", kind.name, renewals)
				if renewals > 0 {
					held, err := t.c.Extend(t.Context(), holder.Token, lasts, key)
					t.must(err)
					t.want("held", held, true)
				}
				for range 2 { // it stays the same between renewals
					l, err := t.c.Lease(t.Context(), key, kind.request)
					t.must(err)
					t.want("state", l.State, backend.Loading)
					if l.Deadline == "" {
						return // the store cannot tell
					}
					text, ms, _ := strings.Cut(l.Deadline, " ")
					if text == "" || ms != strconv.FormatInt(lasts.Milliseconds(), 10) {
						t.Errorf("Deadline %q, want a text without blanks, a blank and %d", l.Deadline, lasts.Milliseconds())
					}
					seen[l.Deadline] = true
				}
				if len(seen) != renewals+1 {
					t.Fatalf("%d Deadlines so far, want one for the lease and one for each renewal: %q", len(seen), slices.Collect(maps.Keys(seen)))
				}
			}
		}
	}},
	{"GetMarkedOfALeasedKeyIsAMiss", func(t *test) {
		t.granted(key)
		t.step("GetMarked of a key with a lease and no value")
		got, mark, ok, err := t.c.GetMarked(t.Context(), key)
		t.must(err)
		if ok || mark == backend.NotFound {
			t.Errorf("%.80q, %v, %v; want a miss without a not-found marker", got, mark, ok)
		}
	}},
	{"WhoWaitedForAnInvalidatedLoadWaitsAgain", func(t *test) {
		gone := t.granted(key)
		t.must(t.c.Delete(t.Context(), key))
		t.granted(key)
		l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, WaitedFor: gone})
		t.must(err)
		t.want("state", l.State, backend.Loading)
	}},
	{"NotFoundIsRemembered", func(t *test) {
		t.step("a not-found marker")
		t.brief(func(d time.Duration) bool {
			t.must(t.c.Delete(t.Context(), key))
			stored, err := t.c.Fill(t.Context(), key, t.granted(key), backend.Fill{NotFound: true, TTL: d})
			t.must(err)
			t.want("stored", stored, true)
			t.wantMiss(key)
			l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl})
			t.must(err)
			return l.State == backend.Absent
		})
		t.step("after the marker has expired")
		t.granted(key)
	}},
	{"NotFoundNeedsTheToken", func(t *test) {
		token := t.granted(key)
		t.must(t.c.Delete(t.Context(), key))
		stored, err := t.c.Fill(t.Context(), key, token, backend.Fill{NotFound: true, TTL: ttl})
		t.must(err)
		t.want("stored", stored, false)
		t.granted(key)
	}},
	{"WritesForgetNotFound", func(t *test) {
		for name, write := range map[string]func(){
			"Delete": func() { t.must(t.c.Delete(t.Context(), key)) },
			"Set":    func() { t.set(key, value); t.must(t.c.Delete(t.Context(), key)) },
			"Block": func() {
				t.must(t.c.Block(t.Context(), "w", ttl, key))
				t.must(t.c.Unblock(t.Context(), "w", key))
			},
		} {
			t.step("%s of a key with a not-found marker", name)
			token := t.granted(key)
			if _, err := t.c.Fill(t.Context(), key, token, backend.Fill{NotFound: true, TTL: ttl}); err != nil {
				t.Fatal(name, err)
			}
			write()
			t.must(t.c.Release(t.Context(), key, t.granted(key)))
		}
	}},
	{"BadValueIsRemovedIfItIsStillThere", func(t *test) {
		t.set(key, []byte("not json"))
		t.step("Undecodable is not the stored value")
		l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Undecodable: []byte("other")})
		t.must(err)
		t.want("state", l.State, backend.Present)
		t.step("Undecodable is the stored value")
		l, err = t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Undecodable: []byte("not json")})
		t.must(err)
		t.want("state", l.State, backend.Granted)
		t.wantMiss(key)
		t.step("Undecodable is empty, and there is a not-found marker")
		t.filled(key, l.Token, backend.Fill{NotFound: true, TTL: ttl})
		l, err = t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Undecodable: []byte{}})
		t.must(err)
		t.want("state", l.State, backend.Absent)
	}},
	{"ConcurrentLeasesGrantOne", func(t *test) {
		const n = 32
		states := make(chan backend.LeaseState, n)
		for range n {
			go func() {
				l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl})
				if err != nil {
					t.Error(err)
				}
				states <- l.State
			}()
		}
		granted := 0
		for range n {
			if <-states == backend.Granted {
				granted++
			}
		}
		t.want("leases granted", granted, 1)
	}},
}
