package asidetest

import (
	"time"

	"github.com/cacheaside/aside/backend"
)

// old is a request by which no value of this suite without a mark is fresh.
var old = backend.Refresh{Over: 2 * time.Hour, Within: 3 * time.Hour}

// ofRefreshes are the rules about marks, and about loading a value again while it is
// there.
var ofRefreshes = []testCase{
	{"AMarkLastsForItsTime", func(t *test) {
		t.step("a value with a mark")
		t.brief(func(d time.Duration) bool {
			t.must(t.c.Delete(t.Context(), key))
			t.filled(key, t.granted(key), backend.Fill{Value: value, TTL: time.Hour, FreshFor: d})
			return t.mark(key) == backend.Fresh
		})
		t.step("after the mark is over")
		t.wantMark(key, backend.Unmarked)
		t.wantHit(key, value)
	}},
	{"AMarkIsOfItsFill", func(t *test) {
		if _, _, ok, err := t.c.GetMarked(t.Context(), key); ok || err != nil {
			t.Errorf("GetMarked of nothing: %v, %v; want a miss", ok, err)
		}
		t.step("a Fill without FreshFor")
		t.fill(key, t.granted(key), value, true)
		t.wantMark(key, backend.Unmarked)
		t.must(t.c.Delete(t.Context(), key))
		t.step("a Fill of an empty value with FreshFor")
		t.filled(key, t.granted(key), backend.Fill{Value: []byte{}, TTL: time.Hour, FreshFor: time.Hour})
		t.wantMark(key, backend.Fresh) // an empty value is one
	}},
	{"WritesEndTheMark", func(t *test) {
		for name, write := range map[string]func(){
			"Set":    func() {},
			"Delete": func() { t.must(t.c.Delete(t.Context(), key)) },
			"Clear":  func() { t.must(t.c.Clear(t.Context(), "chat_messages:")) },
			"Block": func() {
				t.must(t.c.Block(t.Context(), "w", ttl, key))
				t.must(t.c.Unblock(t.Context(), "w", key))
			},
			"Unblock": func() { t.must(t.c.Unblock(t.Context(), "lost", key)) },
		} {
			t.step("after %s", name)
			t.must(t.c.Delete(t.Context(), key))
			t.filled(key, t.granted(key), backend.Fill{Value: value, TTL: time.Hour, FreshFor: time.Hour})
			if write(); name != "Set" {
				t.refresh(key, old, backend.Gone)
			}
			t.set(key, value)
			t.wantMark(key, backend.Unmarked)
		}
	}},
	{"AMarkThatOutlivesItsValueIsNothing", func(t *test) {
		t.filled(key, t.granted(key), backend.Fill{Value: value, TTL: 300 * time.Millisecond, FreshFor: time.Hour})
		t.h.Advance(t.T, 400*time.Millisecond)
		t.step("after the value has expired")
		t.refresh(key, old, backend.Gone)
		t.step("a Fill without FreshFor after that")
		t.fill(key, t.granted(key), value, true)
		t.wantMark(key, backend.Unmarked)
	}},
	{"RefreshOfNothing", func(t *test) {
		t.step("a key with nothing")
		t.refresh(key, old, backend.Gone)
		token := t.granted(key)
		t.step("a key with a lease and no value")
		t.refresh(key, old, backend.Gone)
		t.filled(key, token, backend.Fill{NotFound: true, TTL: ttl})
		t.step("a key with a not-found marker")
		t.refresh(key, old, backend.Gone)
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.step("a blocked key without a value")
		t.refresh(key, old, backend.Gone)
	}},
	{"RefreshOfAFreshValue", func(t *test) {
		t.filled(key, t.granted(key), backend.Fill{Value: value, TTL: time.Hour, FreshFor: time.Hour})
		t.refresh(key, old, backend.Marked)
		t.wantMark(key, backend.Fresh)
	}},
	{"RefreshMarksAYoungValue", func(t *test) {
		t.step("a value that is young by its rule")
		t.brief(func(d time.Duration) bool {
			t.must(t.c.Set(t.Context(), key, value, time.Hour))
			l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Refresh: &backend.Refresh{Over: time.Hour - d, Within: time.Hour}})
			t.must(err)
			return l.State == backend.Marked && t.mark(key) == backend.Fresh
		})
		t.step("after the mark is over")
		t.wantMark(key, backend.Unmarked)
		t.refresh(key, backend.Refresh{Over: time.Hour - time.Millisecond, Within: time.Hour}, backend.Granted)
		t.wantHit(key, value)
	}},
	{"RefreshDoesNotMarkAnOldValue", func(t *test) {
		for name, r := range map[string]backend.Refresh{
			"one that is kept for less":    {Over: 90 * time.Minute, Within: 2 * time.Hour},
			"one that is kept for longer":  {Over: 10 * time.Minute, Within: 30 * time.Minute},
			"one where no value is so old": {Over: time.Hour, Within: time.Hour},
		} {
			t.must(t.c.Set(t.Context(), key, value, time.Hour))
			l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Refresh: &r})
			t.must(err)
			t.want("state of the lease to refresh "+name, l.State, backend.Granted)
		}
	}},
	{"OneRefreshAtATime", func(t *test) {
		t.set(key, value)
		t.step("a value without a mark")
		token := t.refresh(key, old, backend.Granted).Token
		t.step("a value with a lease to refresh")
		if l := t.refresh(key, old, backend.Loading); token == "" || l.Token != token {
			t.Errorf("the holder's token is %q, and another was told %q", token, l.Token)
		}
		t.must(t.c.Delete(t.Context(), key))
		t.step("a key with a claim")
		t.claim(backend.Granted)
		t.refresh(key, old, backend.Loading)
		t.wantMark(key, backend.Leased)
	}},
	{"RefreshOfABlockedKey", func(t *test) {
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.set(key, value) // by a program that does not know of the block
		t.step("an old value on a blocked key")
		t.refresh(key, old, backend.Writing)
		t.step("a young value on a blocked key")
		t.refresh(key, backend.Refresh{Within: time.Hour}, backend.Writing)
		t.wantMark(key, backend.Unmarked)
		t.wantHit(key, value)
	}},
	{"RefreshLeavesTheValue", func(t *test) {
		t.must(t.c.Set(t.Context(), key, value, time.Hour))
		t.step("a value with a lease to refresh")
		t.refresh(key, old, backend.Granted)
		t.wantHit(key, value)
		t.wantMark(key, backend.Leased)
		t.step("an ordinary request for a value with a lease to refresh")
		t.lease(key, backend.Present)
		t.wantMark(key, backend.Leased)
		if left, ok, err := t.c.TTL(t.Context(), key); !ok || err != nil || left <= 0 || left > time.Hour {
			t.Errorf("TTL: %v, %v, %v", left, ok, err)
		}
	}},
	{"AFillReplacesTheValue", func(t *test) {
		t.must(t.c.Set(t.Context(), key, value, time.Hour))
		token := t.refresh(key, old, backend.Granted).Token
		t.step("a Fill with another token")
		t.fill(key, "another", []byte("theirs"), false)
		t.step("a Fill with the lease's token")
		t.filled(key, token, backend.Fill{Value: []byte("new"), TTL: time.Hour, FreshFor: time.Hour})
		t.wantHit(key, []byte("new"))
		t.wantMark(key, backend.Fresh)
		t.step("a second Fill")
		t.fill(key, token, []byte("again"), false)
		t.step("a refresh after the Fill")
		t.refresh(key, old, backend.Marked)
		t.wantHit(key, []byte("new"))
	}},
	{"ARefreshThatFindsNothingRemovesTheValue", func(t *test) {
		t.step("a Fill of NotFound without TTL")
		t.set(key, value)
		t.filled(key, t.refresh(key, old, backend.Granted).Token, backend.Fill{NotFound: true})
		t.wantMiss(key)
		t.must(t.c.Release(t.Context(), key, t.granted(key)))
		t.step("a Fill of NotFound with TTL")
		t.set(key, value)
		t.filled(key, t.refresh(key, old, backend.Granted).Token, backend.Fill{NotFound: true, TTL: ttl})
		t.wantMiss(key)
		t.lease(key, backend.Absent)
		t.refresh(key, old, backend.Gone)
	}},
	{"ARefreshIsRefusedAfterAWrite", func(t *test) {
		for name, write := range map[string]func(){
			"Set":             func() { t.set(key, []byte("newer")) },
			"Set of the same": func() { t.set(key, value) },
			"Delete":          func() { t.must(t.c.Delete(t.Context(), key)) },
			"Clear":           func() { t.must(t.c.Clear(t.Context(), "chat_messages:")) },
			"Block":           func() { t.must(t.c.Block(t.Context(), "w", ttl, key)) },
			"Unblock":         func() { t.must(t.c.Unblock(t.Context(), "w", key)) },
			"a load": func() {
				t.must(t.c.Delete(t.Context(), key))
				t.fill(key, t.granted(key), value, true)
			},
			"another refresh": func() {
				t.must(t.c.Delete(t.Context(), key))
				t.set(key, value)
				t.filled(key, t.refresh(key, old, backend.Granted).Token, backend.Fill{Value: []byte("newer"), TTL: ttl})
			},
		} {
			for _, fill := range []backend.Fill{{Value: []byte("older"), TTL: ttl, FreshFor: ttl}, {NotFound: true, TTL: ttl}, {NotFound: true}} {
				t.must(t.c.Unblock(t.Context(), "w", key))
				t.step("a lease to refresh, then %s, then Fill(%.80q, NotFound: %v, TTL: %v)", name, fill.Value, fill.NotFound, fill.TTL)
				t.set(key, value)
				token := t.refresh(key, old, backend.Granted).Token
				write()
				before, there, err := t.c.Get(t.Context(), key)
				t.must(err)
				stored, err := t.c.Fill(t.Context(), key, token, fill)
				t.must(err)
				t.want("stored", stored, false)
				if there {
					t.wantHit(key, before)
					t.wantMark(key, backend.Unmarked)
				} else {
					t.wantMiss(key)
				}
			}
		}
	}},
	{"ARefreshIsStoredAfterTheValuesEnd", func(t *test) {
		t.brief(func(d time.Duration) bool {
			t.must(t.c.Delete(t.Context(), key))
			t.must(t.c.Set(t.Context(), key, value, d))
			l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: time.Hour, Refresh: &old})
			t.must(err)
			return l.State == backend.Granted
		})
		t.step("after the value has expired")
		t.wantMiss(key)
		token := t.lease(key, backend.Loading).Token // others wait for it
		t.fill(key, token, []byte("new"), true)
		t.wantHit(key, []byte("new"))
	}},
	{"ALeaseToRefreshIsExtended", func(t *test) {
		t.must(t.c.Set(t.Context(), key, value, time.Hour))
		var l backend.Lease
		t.brief(func(d time.Duration) bool {
			var err error
			t.must(t.c.Release(t.Context(), key, l.Token))
			t.must(t.c.Set(t.Context(), key, value, time.Hour))
			l, err = t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: d, Refresh: &old})
			t.must(err)
			return t.extended(l.Token, key)
		})
		t.step("after the lease's first time is over")
		t.wantMark(key, backend.Leased)
		t.filled(key, l.Token, backend.Fill{Value: []byte("new"), TTL: time.Hour})
		t.wantHit(key, []byte("new"))
	}},
	{"ALeaseToRefreshExpires", func(t *test) {
		t.must(t.c.Set(t.Context(), key, value, time.Hour))
		l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: 300 * time.Millisecond, Refresh: &old})
		t.must(err)
		t.want("state", l.State, backend.Granted)
		t.h.Advance(t.T, 400*time.Millisecond)
		t.step("after the lease has expired")
		t.extend(key, l.Token, false)
		t.fill(key, l.Token, []byte("late"), false)
		t.wantHit(key, value)
		t.wantMark(key, backend.Unmarked)
		t.refresh(key, old, backend.Granted) // its holder has died, which is no failure
	}},
	{"AFailedRefreshKeepsOthersAwayForLongerEachTime", func(t *test) {
		t.must(t.c.Set(t.Context(), key, value, 5*time.Minute))
		for cool := backend.FailedFor; cool <= 2*backend.FailedFor; cool *= 2 {
			t.step("a refresh with a cool-down of %v", cool)
			token := t.refresh(key, old, backend.Granted).Token
			before, _, err := t.c.TTL(t.Context(), key)
			t.must(err)
			start := time.Now()
			t.must(t.c.Release(t.Context(), key, token))
			t.must(t.c.Release(t.Context(), key, token))
			cooling := func() {
				l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Refresh: &old})
				t.must(err)
				if time.Since(start) < cool && (l.State != backend.Loading || l.Token != "") { // or this machine is slow
					t.Errorf("after a release, within %v: %+v, want Loading and no token", cool, l)
				}
			}
			cooling()
			t.wantHit(key, value)
			t.wantMark(key, backend.Unmarked)
			if left, ok, err := t.c.TTL(t.Context(), key); !ok || err != nil || left > before {
				t.Errorf("the value is kept for %v, %v, %v after a release, and was for %v before it", left, ok, err, before)
			}
			t.fill(key, token, []byte("late"), false)
			t.h.Advance(t.T, cool-200*time.Millisecond)
			cooling()
			t.h.Advance(t.T, 300*time.Millisecond)
			if time.Since(start) > 2*cool {
				t.Log("this machine is so slow that the failures are forgotten")
				return
			}
		}
		t.step("a refresh after the cool-down")
		t.refresh(key, old, backend.Granted)
	}},
	{"OnlyFailuresInARowLengthenTheCooldown", func(t *test) {
		release := func(token string) {
			t.must(t.c.Release(t.Context(), key, token))
			t.h.Advance(t.T, backend.FailedFor+200*time.Millisecond)
		}
		t.must(t.c.Set(t.Context(), key, value, time.Hour))
		release(t.refresh(key, old, backend.Granted).Token)
		l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: 300 * time.Millisecond, Refresh: &old})
		t.must(err)
		t.want("state of the second lease to refresh", l.State, backend.Granted)
		t.h.Advance(t.T, 400*time.Millisecond)
		t.step("after a second refresh, whose lease expired")
		release(t.refresh(key, old, backend.Granted).Token)
		t.refresh(key, old, backend.Granted)
	}},
	{"FailuresOfRefreshesAreForgotten", func(t *test) {
		fail := func() {
			t.Helper()
			t.must(t.c.Release(t.Context(), key, t.refresh(key, old, backend.Granted).Token))
		}
		t.must(t.c.Set(t.Context(), key, value, time.Hour))
		t.step("the first refresh")
		fail()
		t.set(key, value)
		t.step("a refresh after one failed, then Set")
		fail()
		t.must(t.c.Delete(t.Context(), key))
		t.set(key, value)
		t.step("a refresh after one failed, then Delete and Set")
		fail()
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.must(t.c.Unblock(t.Context(), "w", key))
		t.set(key, value)
		t.step("a refresh after one failed, then Block, Unblock and Set")
		t.refresh(key, old, backend.Granted)
	}},
	{"AFailedRefreshDoesNotKeepLoadsAway", func(t *test) {
		var failed string
		t.brief(func(d time.Duration) bool {
			t.must(t.c.Set(t.Context(), key, value, d))
			l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Refresh: &old})
			t.must(err)
			failed = l.Token
			t.must(t.c.Release(t.Context(), key, failed))
			return l.State == backend.Granted
		})
		t.step("a load after a refresh failed and the value has expired")
		token := t.granted(key)
		if l := t.lease(key, backend.Loading); l.Token != token {
			t.Errorf("the token is %q, want the holder's, %q", l.Token, token)
		}
		t.fill(key, token, value, true)
		t.step("a refresh after that load")
		t.refresh(key, old, backend.Granted)
	}},
	{"ALeaseThatIsAskedForInAnyCase", func(t *test) {
		always := backend.Refresh{Always: true}
		for name, prepare := range map[string]func(){
			"nothing":            func() {},
			"a value":            func() { t.set(key, value) },
			"a fresh value":      func() { t.filled(key, t.granted(key), backend.Fill{Value: value, TTL: time.Hour, FreshFor: time.Hour}) },
			"a not-found marker": func() { t.filled(key, t.granted(key), backend.Fill{NotFound: true, TTL: time.Hour}) },
			"a load that failed": func() { t.must(t.c.Release(t.Context(), key, t.granted(key))) },
			"a refresh that failed": func() {
				t.must(t.c.Set(t.Context(), key, value, time.Hour))
				t.must(t.c.Release(t.Context(), key, t.refresh(key, old, backend.Granted).Token))
			},
		} {
			t.must(t.c.Delete(t.Context(), key))
			t.step("Always, on a key with %s", name)
			prepare()
			had, mark, ok, err := t.c.GetMarked(t.Context(), key)
			t.must(err)
			if (mark == backend.NotFound) != (name == "a not-found marker") {
				t.Errorf("the mark is %v", mark)
			}
			token := t.refresh(key, always, backend.Granted).Token
			if l := t.refresh(key, always, backend.Loading); l.Token != token {
				t.Errorf("the holder's token is %q, and another was told %q", token, l.Token)
			}
			if ok { // readers go on having it, as fresh as it was
				t.wantHit(key, had)
				if now := t.mark(key); mark == backend.Fresh && now != backend.Fresh {
					t.Errorf("the mark is %v while it is loaded, and was %v", now, mark)
				}
			} else if mark != backend.NotFound { // which a store may go on answering
				t.want("token of the lease", t.lease(key, backend.Loading).Token, token)
			}
			t.fill(key, token, []byte("newest"), true)
			t.wantHit(key, []byte("newest"))
		}
		t.step("Always, on a blocked key")
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.refresh(key, always, backend.Writing)
	}},
	{"ALeaseOnAFreshValueGivenBack", func(t *test) {
		t.filled(key, t.granted(key), backend.Fill{Value: value, TTL: time.Hour, FreshFor: time.Hour})
		token := t.refresh(key, backend.Refresh{Always: true}, backend.Granted).Token
		t.must(t.c.Release(t.Context(), key, token))
		t.wantHit(key, value)
		t.fill(key, token, []byte("late"), false)
		t.step("after Release")
		t.refresh(key, backend.Refresh{Always: true}, backend.Granted)
	}},
	{"ConcurrentRefreshesGrantOne", func(t *test) {
		t.must(t.c.Set(t.Context(), key, value, time.Hour))
		const n = 32
		states := make(chan backend.LeaseState, n)
		for range n {
			go func() {
				l, err := t.c.Lease(t.Context(), key, backend.LeaseRequest{TTL: ttl, Refresh: &old})
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
