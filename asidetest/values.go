package asidetest

import (
	"bytes"
	"strings"
	"time"

	"github.com/cacheaside/aside/backend"
)

// ofValues are the rules about storing and removing values.
var ofValues = []testCase{
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
	{"ClearRemovesWhatStartsWithAPrefix", func(t *test) {
		t.set("a:1", value)
		t.set("a:{2}", value)
		t.set("a:3}", value)
		t.set("ab:1", value)
		t.set("a[b]*:1", value)
		load := t.granted("a:load")
		t.must(t.c.Block(t.Context(), "w", ttl, "a:write"))
		t.step("Clear of a:")
		t.must(t.c.Clear(t.Context(), "a:"))
		t.wantMiss("a:1")
		t.wantMiss("a:{2}")
		t.wantMiss("a:3}")
		t.wantHit("ab:1", value)
		t.wantHit("a[b]*:1", value)
		t.fill("a:load", load, value, false)
		t.lease("a:write", backend.Writing)
		t.step("Clear of a[b]*:")
		t.must(t.c.Clear(t.Context(), "a[b]*:"))
		t.wantMiss("a[b]*:1")
	}},
	{"ClearLeavesClaims", func(t *test) {
		token := t.claim(backend.Granted)
		t.set("chat_messages:B", value)
		t.must(t.c.Clear(t.Context(), "chat_messages:"))
		t.wantMiss("chat_messages:B")
		t.wantHit(key, []byte("1"))
		t.claim(backend.Present)
		t.extend(key, token, true)
		t.must(t.c.Release(t.Context(), key, token))
		t.wantMiss(key)
	}},
	{"ClearRemovesTheValueOfAClaimThatHasEnded", func(t *test) {
		token := t.claim(backend.Granted)
		t.set(key, value)
		t.extend(key, token, false)
		t.must(t.c.Clear(t.Context(), "chat_messages:"))
		t.wantMiss(key)
	}},
	{"ClearRemovesNotFoundMarkers", func(t *test) {
		token := t.granted("a:1")
		_, err := t.c.Fill(t.Context(), "a:1", token, backend.Fill{NotFound: true, TTL: ttl})
		t.must(err)
		t.must(t.c.Clear(t.Context(), "a:"))
		t.granted("a:1")
	}},
	{"InfoCountsKeys", func(t *test) {
		t.set("a:1", value)
		t.set("a:2", value)
		s, err := t.c.Info(t.Context())
		t.must(err)
		t.want("keys", s.Keys, int64(2))
		if s.Name == "" {
			t.Error("Info has no Name")
		}
	}},
}

// ofBlocks are the rules about writers' blocks.
var ofBlocks = []testCase{
	{"BlockRemovesAndBlocks", func(t *test) {
		t.set(key, value)
		t.step("after Block")
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.wantMiss(key)
		t.lease(key, backend.Writing)
		t.step("after Unblock")
		t.must(t.c.Unblock(t.Context(), "w", key))
		t.granted(key)
	}},
	{"BlockEndsALease", func(t *test) {
		token := t.granted(key)
		t.step("a Fill after Block")
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.fill(key, token, value, false)
		t.step("a Fill after Block and Unblock")
		t.must(t.c.Unblock(t.Context(), "w", key))
		t.fill(key, token, value, false)
		t.wantMiss(key)
	}},
	{"DeleteAndSetLeaveBlocks", func(t *test) {
		t.must(t.c.Block(t.Context(), "w", ttl, key))
		t.step("Delete of a blocked key")
		t.must(t.c.Delete(t.Context(), key))
		t.lease(key, backend.Writing)
		t.step("Set and Delete of a blocked key")
		t.set(key, value)
		t.must(t.c.Delete(t.Context(), key))
		t.lease(key, backend.Writing)
	}},
	{"EachWriterBlocks", func(t *test) {
		t.must(t.c.Block(t.Context(), "w1", ttl, key))
		t.must(t.c.Block(t.Context(), "w2", ttl, key))
		t.step("after Unblock by one of two writers")
		t.must(t.c.Unblock(t.Context(), "w1", key))
		t.lease(key, backend.Writing)
		t.step("after Unblock by both writers")
		t.must(t.c.Unblock(t.Context(), "w2", key))
		t.granted(key)
	}},
	{"EachBlockExpiresByItself", func(t *test) {
		t.must(t.c.Block(t.Context(), "short", 300*time.Millisecond, key))
		t.must(t.c.Block(t.Context(), "long", ttl, key))
		t.must(t.c.Block(t.Context(), "short2", 300*time.Millisecond, key))
		t.h.Advance(t.T, 400*time.Millisecond)
		t.step("after the short blocks have expired")
		t.extend(key, "short", false)
		t.lease(key, backend.Writing)
		t.step("after Unblock by the writer with the long block")
		t.must(t.c.Unblock(t.Context(), "long", key))
		t.granted(key)
	}},
	{"ExtendKeepsABlock", func(t *test) {
		t.brief(func(d time.Duration) bool {
			t.must(t.c.Block(t.Context(), "w", d, key))
			return t.extended("w", key)
		})
		t.lease(key, backend.Writing)
	}},
	{"UnblockRemovesWhateverCame", func(t *test) {
		// The block was lost, a reader slipped in, and another has the lease.
		token := t.granted(key)
		t.fill(key, token, value, true)
		t.step("Unblock without a block, of a key with a value")
		t.must(t.c.Unblock(t.Context(), "lost", key))
		t.wantMiss(key)
		t.step("Unblock without a block, of a key with a lease")
		token = t.granted(key)
		t.must(t.c.Unblock(t.Context(), "lost", key))
		t.fill(key, token, value, false)
	}},
	{"BlocksOfSeveralKeys", func(t *test) {
		t.must(t.c.Block(t.Context(), "w", ttl, "s:1", "s:2", "s:{3}"))
		for _, k := range []string{"s:1", "s:2", "s:{3}"} {
			t.lease(k, backend.Writing)
		}
		t.must(t.c.Unblock(t.Context(), "w", "s:1", "s:2", "s:{3}"))
		for _, k := range []string{"s:1", "s:2", "s:{3}"} {
			t.granted(k)
		}
	}},
}
