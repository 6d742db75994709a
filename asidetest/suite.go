// Package asidetest checks implementations of [aside.Cache], and makes faulty
// ones for tests.
package asidetest

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside"
)

// Harness is what the suite needs of a backend under test.
type Harness struct {
	// New returns an empty Cache, for one test, which the suite does not close.
	// It is the backend itself or a front over it.
	New func(t *testing.T) aside.Cache

	// Advance lets d pass by the backend's clock. Defaults to time.Sleep.
	Advance func(t *testing.T, d time.Duration)

	// StoresNothing says that the backend is one that misses always and never
	// grants a lease; the suite then checks that.
	StoresNothing bool
}

// Run runs the suite: one subtest per rule, each with a Cache of its own.
func Run(t *testing.T, h Harness) {
	if h.Advance == nil {
		h.Advance = func(_ *testing.T, d time.Duration) { time.Sleep(d) }
	}
	cases := storing
	if h.StoresNothing {
		cases = storingNothing
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.run(&test{T: t, h: h, c: h.New(t)})
		})
	}
}

type testCase struct {
	name string
	run  func(*test)
}

const (
	key = "chat_messages:A"
	ttl = 10 * time.Second
)

var value = []byte(`["hello"]`)

var storing = []testCase{
	{"GetMissesAnAbsentKey", func(t *test) { t.wantMiss(key) }},
	{"SetThenGet", func(t *test) {
		t.set(key, value)
		t.wantHit(key, value)
		t.set(key, []byte("other"))
		t.wantHit(key, []byte("other"))
	}},
	{"EmptyValueIsAHit", func(t *test) {
		t.set(key, []byte{})
		t.wantHit(key, []byte{})
	}},
	{"BytesStayAsTheyAre", func(t *test) {
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		t.set(key, all)
		t.wantHit(key, all)
		large := bytes.Repeat(all, 4096)
		t.set(key, large)
		t.wantHit(key, large)
	}},
	{"KeysStayApart", func(t *test) {
		keys := []string{
			"s:A", "s:a", "s: ", "s:a b", "s:a\nb", "s:a\x00b", "s:{A}", "s:{a", "s:a}", "s:}{", "s:a{}b", "s:{}",
			"s:{A}:lease", "s:A}:lease", "s:대화방", "s:*", "s:[a]", "s:\xff\xfe", "s:" + strings.Repeat("x", 10<<10),
		}
		for _, k := range keys {
			t.set(k, []byte(k))
			token := t.granted("l" + k)
			t.fill("l"+k, token, []byte("l"+k), true)
		}
		for _, k := range keys {
			t.wantHit(k, []byte(k))
			t.wantHit("l"+k, []byte("l"+k))
		}
	}},
	{"ValuesExpire", func(t *test) {
		t.brief(func(d time.Duration) bool {
			t.must(t.c.Set(t.Context(), key, value, d))
			got, ok, err := t.c.Get(t.Context(), key)
			t.must(err)
			return ok && bytes.Equal(got, value)
		})
		t.wantMiss(key)
	}},
	{"DeleteRemoves", func(t *test) {
		t.set("s:1", value)
		t.set("s:2", value)
		t.set("s:3", value)
		t.must(t.c.Delete(t.Context(), "s:1", "s:2", "s:absent"))
		t.wantMiss("s:1")
		t.wantMiss("s:2")
		t.wantHit("s:3", value)
	}},
	{"LeaseThenFill", func(t *test) {
		token := t.granted(key)
		t.wantMiss(key)
		t.fill(key, token, value, true)
		t.wantHit(key, value)
	}},
	{"FilledValueExpires", func(t *test) {
		token := t.granted(key)
		stored, err := t.c.Fill(t.Context(), key, token, aside.Fill{Value: value, TTL: 300 * time.Millisecond})
		t.must(err)
		t.want("stored", stored, true)
		t.h.Advance(t.T, 400*time.Millisecond)
		t.wantMiss(key)
	}},
	{"LeaseOfAPresentKeyIsItsValue", func(t *test) {
		t.set(key, value)
		if l := t.lease(key, aside.Present); !bytes.Equal(l.Value, value) {
			t.Errorf("Lease value %q, want %q", l.Value, value)
		}
	}},
	{"OneLeaseAtATime", func(t *test) {
		token := t.granted(key)
		if l := t.lease(key, aside.Loading); l.Token != token {
			t.Errorf("Lease token %q, want the holder's, %q", l.Token, token)
		}
	}},
	{"FillNeedsTheToken", func(t *test) {
		t.granted(key)
		t.fill(key, "another", value, false)
		t.fill(key, "", value, false)
		t.wantMiss(key)
	}},
	{"FillEndsTheLease", func(t *test) {
		token := t.granted(key)
		t.fill(key, token, value, true)
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
		t.fill(key, old, []byte("old"), false)
		t.fill(key, token, value, true)
		t.wantHit(key, value)
	}},
	{"LeasesExpire", func(t *test) {
		l, err := t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: 300 * time.Millisecond})
		t.must(err)
		t.h.Advance(t.T, 400*time.Millisecond)
		t.fill(key, l.Token, value, false)
		t.extend(key, l.Token, false)
		t.granted(key)
	}},
	{"AnExpiredLeaseIsReplacedBesideAFreshMark", func(t *test) {
		// The mark of a failed load outlives the lease, so that what a backend keeps
		// of the key is not gone as a whole.
		t.must(t.c.Release(t.Context(), key, t.granted(key)))
		l, err := t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: 300 * time.Millisecond})
		t.must(err)
		t.want("state", l.State, aside.Granted)
		t.h.Advance(t.T, 400*time.Millisecond)
		t.extend(key, l.Token, false)
		t.fill(key, l.Token, value, false)
		token := t.granted(key)
		t.lease(key, aside.Loading)
		t.fill(key, token, value, true)
		t.wantHit(key, value)
	}},
	{"ExtendKeepsALease", func(t *test) {
		var l aside.Lease
		t.brief(func(d time.Duration) bool {
			var err error
			l, err = t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: d})
			t.must(err)
			return t.extended(key, l.Token)
		})
		t.fill(key, l.Token, value, true)
	}},
	{"ExtendNeedsTheToken", func(t *test) {
		t.extend(key, "nobody", false)
		t.granted(key)
		t.extend(key, "another", false)
	}},
	{"ReleaseLetsTheNextLoad", func(t *test) {
		token := t.granted(key)
		t.must(t.c.Release(t.Context(), key, "another"))
		t.lease(key, aside.Loading)
		t.must(t.c.Release(t.Context(), key, token))
		t.fill(key, token, value, false)
		t.granted(key)
	}},
	{"WhoWaitedForAFailedLoadDoesNotWaitAgain", func(t *test) {
		for {
			start := time.Now()
			failed := t.granted(key)
			t.must(t.c.Release(t.Context(), key, failed))
			t.granted(key)
			t.lease(key, aside.Loading) // who did not wait for it waits
			l, err := t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: ttl, Waited: failed})
			t.must(err)
			if l.State != aside.Loading || time.Since(start) < time.Second {
				t.want("state", l.State, aside.Unleased)
				return
			}
			t.must(t.c.Delete(t.Context(), key)) // it took so long that the failure is forgotten: once more
		}
	}},
	{"WhoWaitedForAnInvalidatedLoadWaitsAgain", func(t *test) {
		gone := t.granted(key)
		t.must(t.c.Delete(t.Context(), key))
		t.granted(key)
		l, err := t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: ttl, Waited: gone})
		t.must(err)
		t.want("state", l.State, aside.Loading)
	}},
	{"BlockRemovesAndBlocks", func(t *test) {
		t.set(key, value)
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.wantMiss(key)
		t.lease(key, aside.Writing)
		t.must(t.c.Unblock(t.Context(), "w", key))
		t.granted(key)
	}},
	{"BlockEndsALease", func(t *test) {
		token := t.granted(key)
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.fill(key, token, value, false)
		t.must(t.c.Unblock(t.Context(), "w", key))
		t.fill(key, token, value, false)
		t.wantMiss(key)
	}},
	{"DeleteAndSetLeaveBlocks", func(t *test) {
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.must(t.c.Delete(t.Context(), key))
		t.lease(key, aside.Writing)
		t.set(key, value)
		t.must(t.c.Delete(t.Context(), key))
		t.lease(key, aside.Writing)
	}},
	{"EachWriterBlocks", func(t *test) {
		t.must(t.c.Block(t.Context(), "w1", ttl, key))
		t.must(t.c.Block(t.Context(), "w2", ttl, key))
		t.must(t.c.Unblock(t.Context(), "w1", key))
		t.lease(key, aside.Writing)
		t.must(t.c.Unblock(t.Context(), "w2", key))
		t.granted(key)
	}},
	{"EachBlockExpiresByItself", func(t *test) {
		t.must(t.c.Block(t.Context(), "short", 300*time.Millisecond, key))
		t.must(t.c.Block(t.Context(), "long", ttl, key))
		t.must(t.c.Block(t.Context(), "short2", 300*time.Millisecond, key))
		t.h.Advance(t.T, 400*time.Millisecond)
		t.extend(key, "short", false)
		t.lease(key, aside.Writing)
		t.must(t.c.Unblock(t.Context(), "long", key))
		t.granted(key)
	}},
	{"ExtendKeepsABlock", func(t *test) {
		t.brief(func(d time.Duration) bool {
			t.must(t.c.Block(t.Context(), "w", d, key))
			return t.extended(key, "w")
		})
		t.lease(key, aside.Writing)
	}},
	{"UnblockRemovesWhateverCame", func(t *test) {
		// The block was lost, a reader slipped in, and another has the lease.
		token := t.granted(key)
		t.fill(key, token, value, true)
		t.must(t.c.Unblock(t.Context(), "lost", key))
		t.wantMiss(key)
		token = t.granted(key)
		t.must(t.c.Unblock(t.Context(), "lost", key))
		t.fill(key, token, value, false)
	}},
	{"BlocksOfSeveralKeys", func(t *test) {
		t.must(t.c.Block(t.Context(), "w", ttl, "s:1", "s:2", "s:{3}"))
		for _, k := range []string{"s:1", "s:2", "s:{3}"} {
			t.lease(k, aside.Writing)
		}
		t.must(t.c.Unblock(t.Context(), "w", "s:1", "s:2", "s:{3}"))
		for _, k := range []string{"s:1", "s:2", "s:{3}"} {
			t.granted(k)
		}
	}},
	{"NotFoundIsRemembered", func(t *test) {
		t.brief(func(d time.Duration) bool {
			t.must(t.c.Delete(t.Context(), key))
			stored, err := t.c.Fill(t.Context(), key, t.granted(key), aside.Fill{NotFound: true, TTL: d})
			t.must(err)
			t.want("stored", stored, true)
			t.wantMiss(key)
			l, err := t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: ttl})
			t.must(err)
			return l.State == aside.Absent
		})
		t.granted(key)
	}},
	{"NotFoundNeedsTheToken", func(t *test) {
		token := t.granted(key)
		t.must(t.c.Delete(t.Context(), key))
		stored, err := t.c.Fill(t.Context(), key, token, aside.Fill{NotFound: true, TTL: ttl})
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
			token := t.granted(key)
			if _, err := t.c.Fill(t.Context(), key, token, aside.Fill{NotFound: true, TTL: ttl}); err != nil {
				t.Fatal(name, err)
			}
			write()
			t.must(t.c.Release(t.Context(), key, t.granted(key)))
		}
	}},
	{"BadValueIsRemovedIfItIsStillThere", func(t *test) {
		t.set(key, []byte("not json"))
		l, err := t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: ttl, Bad: []byte("other")})
		t.must(err)
		t.want("state", l.State, aside.Present)
		l, err = t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: ttl, Bad: []byte("not json")})
		t.must(err)
		t.want("state", l.State, aside.Granted)
		t.wantMiss(key)
	}},
	{"ClaimShowsItsValue", func(t *test) {
		token := t.claim(aside.Granted)
		t.wantHit(key, []byte("1"))
		t.claim(aside.Present)
		t.must(t.c.Release(t.Context(), key, token))
		t.wantMiss(key)
		t.claim(aside.Granted)
	}},
	{"ClaimIsTheOwners", func(t *test) {
		old := t.claim(aside.Granted)
		t.must(t.c.Delete(t.Context(), key)) // by another program
		token := t.claim(aside.Granted)
		t.extend(key, old, false)
		t.must(t.c.Release(t.Context(), key, old))
		t.wantHit(key, []byte("1"))
		t.extend(key, token, true)
	}},
	{"AClaimMayBeAskedForAgain", func(t *test) {
		req := aside.LeaseRequest{TTL: ttl, Claim: []byte("1"), Owner: "mine"}
		for range 2 {
			l, err := t.c.Lease(t.Context(), key, req)
			t.must(err)
			t.want("state", l.State, aside.Granted)
			t.want("token", l.Token, "mine")
		}
		t.claim(aside.Present)
		t.must(t.c.Release(t.Context(), key, "mine"))
		t.wantMiss(key)
	}},
	{"ClaimYieldsToAValueOfAnother", func(t *test) {
		t.set(key, []byte("1"))
		t.claim(aside.Present)
	}},
	{"ExtendKeepsAClaim", func(t *test) {
		var l aside.Lease
		t.brief(func(d time.Duration) bool {
			var err error
			l, err = t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: d, Claim: []byte("1"), Owner: "mine"})
			t.must(err)
			return t.extended(key, l.Token)
		})
		t.wantHit(key, []byte("1"))
		t.extend(key, l.Token, true)
	}},
	{"ClaimsExpire", func(t *test) {
		l, err := t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: 300 * time.Millisecond, Claim: []byte("1"), Owner: "mine"})
		t.must(err)
		t.h.Advance(t.T, 400*time.Millisecond)
		t.wantMiss(key)
		t.extend(key, l.Token, false)
		t.claim(aside.Granted)
	}},
	{"ClearRemovesWhatStartsWithAPrefix", func(t *test) {
		t.set("a:1", value)
		t.set("a:{2}", value)
		t.set("a:3}", value)
		t.set("ab:1", value)
		t.set("a[b]*:1", value)
		load := t.granted("a:load")
		t.must(t.c.Block(t.Context(), "w", ttl, "a:write"))
		t.must(t.c.Clear(t.Context(), "a:"))
		t.wantMiss("a:1")
		t.wantMiss("a:{2}")
		t.wantMiss("a:3}")
		t.wantHit("ab:1", value)
		t.wantHit("a[b]*:1", value)
		t.fill("a:load", load, value, false)
		t.lease("a:write", aside.Writing)
		t.must(t.c.Clear(t.Context(), "a[b]*:"))
		t.wantMiss("a[b]*:1")
	}},
	{"ClearRemovesNotFoundMarkers", func(t *test) {
		token := t.granted("a:1")
		_, err := t.c.Fill(t.Context(), "a:1", token, aside.Fill{NotFound: true, TTL: ttl})
		t.must(err)
		t.must(t.c.Clear(t.Context(), "a:"))
		t.granted("a:1")
	}},
	{"ConcurrentLeasesGrantOne", func(t *test) {
		const n = 32
		states := make(chan aside.LeaseState, n)
		for range n {
			go func() {
				l, err := t.c.Lease(t.Context(), key, aside.LeaseRequest{TTL: ttl})
				if err != nil {
					t.Error(err)
				}
				states <- l.State
			}()
		}
		granted := 0
		for range n {
			if <-states == aside.Granted {
				granted++
			}
		}
		t.want("leases granted", granted, 1)
	}},
	{"StatusCountsKeys", func(t *test) {
		t.set("a:1", value)
		t.set("a:2", value)
		s, err := t.c.Status(t.Context())
		t.must(err)
		t.want("keys", s.Keys, int64(2))
		if s.Backend == "" {
			t.Error("Status has no Backend")
		}
	}},
}

var storingNothing = []testCase{
	{"StoresNothing", func(t *test) {
		t.set(key, value)
		t.wantMiss(key)
		t.lease(key, aside.Writing)
		t.fill(key, "x", value, false)
		t.must(t.c.Release(t.Context(), key, "x"))
		t.must(t.c.Delete(t.Context(), key))
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.must(t.c.Unblock(t.Context(), "w", key))
		t.must(t.c.Clear(t.Context(), "chat_messages:"))
		_, err := t.c.Status(t.Context())
		t.must(err)
	}},
}
