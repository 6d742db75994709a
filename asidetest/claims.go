package asidetest

import (
	"time"

	"github.com/cacheaside/aside/backend"
)

// ofClaims are the rules about claims: leases that other programs can see as values.
var ofClaims = []testCase{
	{"ClaimShowsItsValue", func(t *test) {
		token := t.claim(backend.Granted)
		t.wantHit(key, []byte("1"))
		t.step("a claim on a key with another owner's claim")
		t.claim(backend.Present)
		t.step("after Release of the claim")
		t.must(t.c.Release(t.Context(), key, token))
		t.wantMiss(key)
		t.claim(backend.Granted)
	}},
	{"AClaimIsGrantedOnABlockedKey", func(t *test) {
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.step("a claim on a blocked key")
		token := t.claim(backend.Granted)
		t.wantHit(key, []byte("1"))
		t.lease(key, backend.Present)
		t.refresh(key, old, backend.Loading)
		t.extend(key, token, true)
		t.step("after Release of the claim")
		t.must(t.c.Release(t.Context(), key, token))
		t.wantMiss(key)
		t.lease(key, backend.Writing) // the block stays
	}},
	{"AClaimReplacesANotFoundMarker", func(t *test) {
		t.filled(key, t.granted(key), backend.Fill{NotFound: true, TTL: ttl})
		t.step("a claim on a key with a not-found marker")
		token := t.claim(backend.Granted)
		t.wantHit(key, []byte("1"))
		t.extend(key, token, true)
		t.step("after Release of the claim")
		t.must(t.c.Release(t.Context(), key, token))
		t.wantMiss(key)
		t.granted(key)
	}},
	{"AClaimEndsALease", func(t *test) {
		lease := t.granted(key)
		t.step("a claim on a key with a lease")
		token := t.claim(backend.Granted)
		t.fill(key, lease, value, false)
		t.wantHit(key, []byte("1"))
		t.extend(key, lease, false)
		t.extend(key, token, true)
	}},
	{"ClaimIsTheOwners", func(t *test) {
		old := t.claim(backend.Granted)
		t.must(t.c.Delete(t.Context(), key)) // by another program
		token := t.claim(backend.Granted)
		t.step("Extend and Release of a claim that Delete ended")
		t.extend(key, old, false)
		t.must(t.c.Release(t.Context(), key, old))
		t.wantHit(key, []byte("1"))
		t.step("Extend of the claim that stands")
		t.extend(key, token, true)
	}},
	{"AClaimMayBeAskedForAgain", func(t *test) {
		req := backend.LeaseRequest{TTL: ttl, Claim: []byte("1"), Owner: "mine"}
		t.step("a claim by the same owner, twice")
		for range 2 {
			l, err := t.c.Lease(t.Context(), key, req)
			t.must(err)
			t.want("state", l.State, backend.Granted)
			t.want("token", l.Token, "mine")
		}
		t.step("a claim by another owner")
		t.claim(backend.Present)
		t.step("after Release of the claim")
		t.must(t.c.Release(t.Context(), key, "mine"))
		t.wantMiss(key)
	}},
	{"ClaimYieldsToAValueOfAnother", func(t *test) {
		t.set(key, []byte("1"))
		t.claim(backend.Present)
	}},
	{"SetEndsAClaim", func(t *test) {
		token := t.claim(backend.Granted)
		t.set(key, []byte("1"))
		t.step("Extend and Release of a claim that Set ended")
		t.extend(key, token, false)
		t.must(t.c.Release(t.Context(), key, token))
		t.wantHit(key, []byte("1"))
	}},
	{"AClaimTakesThePlaceOfABadValue", func(t *test) {
		req := backend.LeaseRequest{TTL: ttl, Undecodable: []byte("1"), Claim: []byte("mine"), Owner: "mine"}
		claim := func(want backend.LeaseState) backend.Lease {
			t.Helper()
			l, err := t.c.Lease(t.Context(), key, req)
			t.must(err)
			t.want("state of the claim", l.State, want)
			return l
		}
		t.step("a claim in place of a value that is not there")
		claim(backend.Absent) // there is no value to replace
		t.wantMiss(key)
		t.step("a claim in place of another value than the stored one")
		t.set(key, []byte("other"))
		if l := claim(backend.Present); string(l.Value) != "other" {
			t.Errorf("the value is %.80q, want %.80q", l.Value, "other")
		}
		t.step("a claim in place of the stored value")
		t.set(key, []byte("1"))
		claim(backend.Granted)
		t.wantHit(key, []byte("mine"))
		t.step("that claim again")
		claim(backend.Granted) // asked for again
		t.step("after Release of the claim")
		t.must(t.c.Release(t.Context(), key, "mine"))
		t.wantMiss(key)
		t.step("a claim in place of a value, on a key with a not-found marker")
		t.filled(key, t.granted(key), backend.Fill{NotFound: true, TTL: ttl})
		claim(backend.Absent)
	}},
	{"AClaimTakesNoFill", func(t *test) {
		token := t.claim(backend.Granted)
		t.fill(key, token, value, false)
		t.wantHit(key, []byte("1"))
		t.extend(key, token, true)
	}},
	{"AClaimReplacesANotFoundMarkerUnderALease", func(t *test) {
		t.filled(key, t.granted(key), backend.Fill{NotFound: true, TTL: ttl})
		lease := t.refresh(key, backend.Refresh{Always: true}, backend.Granted).Token
		t.step("a claim on a key with a lease with Always, and perhaps a not-found marker")
		t.claim(backend.Granted)
		t.wantHit(key, []byte("1"))
		t.fill(key, lease, value, false)
	}},
	{"ExtendKeepsAClaim", func(t *test) {
		var l backend.Lease
		t.brief(func(d time.Duration) bool {
			var err error
			l, err = t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: d, Claim: []byte("1"), Owner: "mine"})
			t.must(err)
			return t.extended(l.Token, key)
		})
		t.wantHit(key, []byte("1"))
		t.extend(key, l.Token, true)
	}},
	{"ClaimsExpire", func(t *test) {
		l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: 300 * time.Millisecond, Claim: []byte("1"), Owner: "mine"})
		t.must(err)
		t.h.Advance(t.T, 400*time.Millisecond)
		t.step("after the claim has expired")
		t.wantMiss(key)
		t.extend(key, l.Token, false)
		t.claim(backend.Granted)
	}},
}
