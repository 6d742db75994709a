package aside_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

type message struct {
	ID        int64             `json:"message_id"`
	Content   string            `json:"content"`
	CreatedAt time.Time         `json:"created_at"`
	Meta      map[string]any    `json:"meta,omitempty"`
	Number    json.Number       `json:"number,omitempty"`
	Raw       json.RawMessage   `json:"raw,omitempty"`
	Tags      map[string]string `json:"tags"`
}

var history = []message{
	{ID: 1, Content: "안녕 <b>&\u2028", CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC), Number: "12.50", Raw: json.RawMessage(`{"a":[1]}`)},
	{ID: math.MaxInt64, Content: "\x00\"\\", Meta: map[string]any{"x": 1.5, "y": nil}, Tags: map[string]string{}},
}

func TestP7_WhatIsStoredIsPlainJSON(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	c, client := overRedis(t, r.Addr, aside.Config{}), r.Client()
	load := func(context.Context) ([]message, error) { return history, nil }
	must(aside.GetOrLoad(t.Context(), c, room, load))
	aside.AwaitFills(c)
	want := string(must(json.Marshal(history)))
	if got := client.Get(t.Context(), "chat_messages:A").Val(); got != want {
		t.Errorf("stored %s, want %s", got, want)
	}
	if ttl := client.TTL(t.Context(), "chat_messages:A").Val(); ttl > 1800*time.Second || ttl < 1700*time.Second {
		t.Errorf("time to live %v, want 1800s", ttl)
	}
	if keys := client.Keys(t.Context(), "*").Val(); len(keys) != 1 {
		t.Errorf("keys after a load: %q", keys)
	}
}

func TestP7_OtherProgramsShareTheKeys(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	c, client := overRedis(t, r.Addr, aside.Config{}), r.Client()
	client.Do(t.Context(), "SETEX", "chat_messages:A", 60, `["theirs"]`)
	load := func(context.Context) ([]string, error) { return []string{"ours"}, nil }
	if got := must(aside.GetOrLoad(t.Context(), c, room, load)); !cmp.Equal(got, []string{"theirs"}) {
		t.Errorf("got %q", got)
	}
	client.Del(t.Context(), "chat_messages:A")
	if got := must(aside.GetOrLoad(t.Context(), c, room, load)); !cmp.Equal(got, []string{"ours"}) {
		t.Errorf("after DEL: %q", got)
	}
	// The invalidation of another language: one DEL of two keys, while a load runs.
	finish := slowLoad(t, overRedis(t, r.Addr, aside.Config{}), "old")
	client.Del(t.Context(), "chat_messages:A", "{chat_messages:A}:lease")
	finish()
	if n := client.Exists(t.Context(), "chat_messages:A").Val(); n != 0 {
		t.Error("a load that began before the DEL was stored")
	}
}

func TestP8_WhatDoesNotDecodeIsReplaced(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		for _, bad := range []string{"not json", "", "{", "null", `{"a":1}`, `"text"`, "1 2", "\xff"} {
			if err := c.Set(t.Context(), "n:1", []byte(bad), time.Minute); err != nil {
				t.Fatal(err)
			}
			key := aside.Keyspace{Name: "n"}.Key("1")
			if v := must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (int, error) { return 7, nil })); v != 7 {
				t.Errorf("%q was served as %d", bad, v)
			}
			if v := must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (int, error) { return 8, nil })); v != 7 {
				t.Errorf("%q was not healed: %d", bad, v)
			}
		}
		if n := asideStats(t, c).DecodeErrors; n != 8 {
			t.Errorf("%d decode errors counted, want 8", n)
		}
	})
}

// Two programs that store different types under one key do not fill the log.
func TestP8_WhatDoesNotDecodeIsLoggedOnce(t *testing.T) {
	t.Parallel()
	var log logtest.Buffer
	c := open(t, aside.Config{Type: "memory", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 5 {
		for _, id := range []string{"A", "B"} {
			if err := c.Set(t.Context(), aside.ChatMessages(id).String(), []byte("{"), time.Minute); err != nil {
				t.Fatal(err)
			}
			must(aside.GetOrLoad(t.Context(), c, aside.ChatMessages(id), func(context.Context) (int, error) { return 7, nil }))
		}
	}
	if n := strings.Count(log.String(), "does not decode"); n != 1 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

func TestP8_AWrongTypeUnderTheKeyIsReplaced(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	c, client := overRedis(t, r.Addr, aside.Config{}), r.Client()
	for _, key := range []string{"chat_messages:A", "{chat_messages:A}:lease"} {
		writes["Invalidate"](t, c)
		client.Del(t.Context(), key)
		client.RPush(t.Context(), key, "x")
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		if got := read(t, c, fails(t)); got != "v" {
			t.Errorf("%s: got %q", key, got)
		}
		client.Del(t.Context(), key)
		client.RPush(t.Context(), key, "x")
		writes["Update"](t, c)
		if aside.Pending(c, room) {
			t.Errorf("%s: the update was not applied", key)
		}
	}
}

// hits checks that a value, once loaded, is a hit, and comes back as it was.
func hits[T any](t *testing.T, c aside.Cache, name string, value T) {
	t.Helper()
	key := aside.Keyspace{Name: "hits"}.Key(name)
	before := asideStats(t, c).Hits
	for i := range int64(2) {
		got, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (T, error) {
			if i > 0 {
				t.Errorf("%s was loaded again", name)
			}
			return value, nil
		})
		if n := asideStats(t, c).Hits - before; n != i {
			t.Errorf("%s: %d hits after read %d, want %d", name, n, i+1, i)
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(value, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
		if _, ok, _ := c.Get(t.Context(), key.String()); !ok {
			t.Errorf("%s is not stored", name)
		}
	}
	if n := asideStats(t, c).DecodeErrors; n != 0 {
		t.Errorf("%s: %d decode errors", name, n)
	}
}

func TestP8_EmptyValuesAreHits(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		hits(t, c, "empty list", []string{})
		hits(t, c, "nil list", []string(nil))
		hits(t, c, "nil map", map[string]int(nil))
		hits(t, c, "nil pointer", (*message)(nil))
		hits(t, c, "nil interface", any(nil))
		hits(t, c, "empty string", "")
		hits(t, c, "zero", 0)
		hits(t, c, "false", false)
		hits(t, c, "empty struct", struct{}{})
		hits(t, c, "history", history)
		hits(t, c, "bytes", []byte{0, 255})
		hits(t, c, "number", json.Number("1e400"))
		hits(t, c, "array", [2]float64{math.MaxFloat64, -0.1})
		hits(t, c, "pointer", &history[0])
	})
}

func TestP8_NotFound(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		for ttl, want := range map[time.Duration]int64{0: 2, time.Minute: 1} {
			key := aside.Keyspace{Name: "user", NotFoundTTL: ttl}.Key(fmt.Sprint(want))
			var loads counter
			for range 2 {
				_, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) {
					loads.Add(1)
					return "", fmt.Errorf("user: %w", aside.ErrNotFound)
				})
				if !errors.Is(err, aside.ErrNotFound) {
					t.Errorf("got %v", err)
				}
			}
			if loads.Load() != want {
				t.Errorf("NotFoundTTL %v: %d loads, want %d", ttl, loads.Load(), want)
			}
			if err := aside.Update(t.Context(), c, func(context.Context) error { return nil }, key); err != nil {
				t.Fatal(err)
			}
			if v, err := aside.GetOrLoad(t.Context(), c, key, loads.load("made")); v != "made" || err != nil {
				t.Errorf("after it was made: %q, %v", v, err)
			}
		}
	})
}

func TestP9_NobodysValueIsAnothers(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		start := make(chan struct{})
		got := make(chan []string, 20)
		for range 20 {
			go func() {
				got <- must(aside.GetOrLoad(context.Background(), c, room, func(context.Context) ([]string, error) {
					<-start
					return []string{"a", "b"}, nil
				}))
			}()
		}
		time.Sleep(20 * time.Millisecond)
		close(start)
		for i := range 20 {
			v := <-got
			if v[0] != "a" {
				t.Fatalf("caller %d sees %q, which another wrote", i, v[0])
			}
			v[0] = "mine"
		}
		for range 2 {
			v := must(aside.GetOrLoad(t.Context(), c, room, func(context.Context) ([]string, error) { return []string{"loaded again"}, nil }))
			if v[0] != "a" {
				t.Errorf("a hit sees %q", v[0])
			}
			v[0] = "mine"
		}
	})
}

func TestP9_ShareHandsOutTheSameValueWhileTheBytesAreTheSame(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		key := aside.Keyspace{Name: "shared", Share: true}.Key("1")
		load := func(context.Context) (*message, error) { return &message{Content: "loaded"}, nil }
		get := func() *message { return must(aside.GetOrLoad(t.Context(), c, key, load)) }
		get()
		aside.AwaitFills(c)
		if one, two := get(), get(); one != two {
			t.Error("two hits on the same bytes are two values")
		}
		// Another program writes: no one told this process.
		if err := c.Set(t.Context(), key.String(), []byte(`{"content":"theirs"}`), time.Minute); err != nil {
			t.Fatal(err)
		}
		if got := get(); got.Content != "theirs" {
			t.Errorf("got %q for other bytes", got.Content)
		}
	})
}

func TestValuesThatCanNotBeStoredAreReturned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory", MaxValueBytes: 10}))
		defer c.Close()
		key := aside.Keyspace{Name: "odd"}.Key("1")
		for range 3 {
			go func() {
				v, err := aside.GetOrLoad(context.Background(), c, key, func(context.Context) (float64, error) {
					time.Sleep(time.Second)
					return math.Inf(1), nil
				})
				if err != nil || !math.IsInf(v, 1) {
					t.Errorf("got %v, %v", v, err)
				}
			}()
		}
		time.Sleep(time.Minute)
		large := aside.Keyspace{Name: "large"}.Key("1")
		for range 2 {
			if v := must(aside.GetOrLoad(t.Context(), c, large, func(context.Context) (string, error) { return "more than ten", nil })); v != "more than ten" {
				t.Errorf("got %q", v)
			}
		}
		if n := asideStats(t, c).EncodeErrors; n < 3 {
			t.Errorf("%d counted, want at least 3", n)
		}
		if err := c.Set(t.Context(), "s:1", []byte("more than ten"), time.Minute); err == nil {
			t.Error("Set took a value over the limit")
		}
	})
}

// reversed is a Codec of a keyspace's own.
type reversed struct{}

func (reversed) Encode(v any) ([]byte, error)    { return []byte("!" + v.(string)), nil }
func (reversed) Decode(data []byte, v any) error { *v.(*string) = string(data[1:]); return nil }

func TestP8_ACodecThatPanicsHasMetBadBytes(t *testing.T) {
	t.Parallel()
	c := open(t, aside.Config{Type: "memory"})
	key := aside.Keyspace{Name: "c", Codec: reversed{}}.Key("1")
	if err := c.Set(t.Context(), "c:1", nil, time.Minute); err != nil {
		t.Fatal(err)
	}
	if v := must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return "v", nil })); v != "v" {
		t.Errorf("got %q", v)
	}
}

func TestAKeyspaceMayHaveACodec(t *testing.T) {
	t.Parallel()
	c := open(t, aside.Config{Type: "memory"})
	key := aside.Keyspace{Name: "c", Codec: reversed{}}.Key("1")
	for range 2 {
		if v := must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return "v", nil })); v != "v" {
			t.Errorf("got %q", v)
		}
	}
	if data, _, _ := c.Get(t.Context(), "c:1"); string(data) != "!v" {
		t.Errorf("stored %q", data)
	}
}

func TestBytesAreStoredAsTheyAre(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		raw := aside.Keyspace{Name: "raw", Codec: aside.Bytes}
		for _, text := range []string{"", "plain", "\x00\xff"} {
			key := raw.Key("as string " + text)
			for range 2 {
				if v := must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return text, nil })); v != text {
					t.Errorf("got %q, want %q", v, text)
				}
			}
			if data, ok, err := c.Get(t.Context(), key.String()); !ok || string(data) != text {
				t.Errorf("stored %q, %v, %v; want %q", data, ok, err, text)
			}
			key = raw.Key("as bytes " + text)
			mine := []byte(text)
			for range 3 { // what a caller does to its bytes is nobody else's
				v := must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) ([]byte, error) { return mine, nil }))
				if string(v) != text {
					t.Errorf("got %q, want %q", v, text)
				}
				for i := range v {
					v[i]++
				}
				mine = []byte("loaded again")
			}
		}
		got := must(aside.GetOrLoad(t.Context(), c, raw.Key("other"), func(context.Context) (int, error) { return 7, nil }))
		if _, ok, _ := c.Get(t.Context(), "raw:other"); got != 7 || ok {
			t.Errorf("an int is returned (%d) and not stored (%v) by a codec of bytes", got, ok)
		}
	})
}

// encoding/json and what reads its output twice as fast agree on what is particular.
func TestJSONReadsWhatEncodingJSONReads(t *testing.T) {
	t.Parallel()
	type odd struct {
		Number  json.Number
		Raw     json.RawMessage
		Quoted  int `json:",string"`
		Took    time.Duration
		At      time.Time
		Digest  [4]byte
		Bytes   []byte
		Any     any
		Ptr     *string
		ByID    map[int]string
		Skipped string `json:"-"`
		message
	}
	for _, text := range []string{
		`{"Number":12.50,"Raw":{"a": 1},"Quoted":"7","Took":1500,"At":"2026-11-25T12:00:00+09:00","Digest":[1,2,3,4],"Bytes":"AQI=","Any":[1,{"x":null}],"Ptr":null,"ByID":{"3":"c"}}`,
		`{"number":"12","QUOTED":"7","content":"in lower case","Content":"twice"}`,
		`{"Content":"\ud800 \u0000","Any":1e3,"Digest":[1,2]}`,
		`{"Quoted":7}`, `{"At":"2026-11-25 12:00"}`, `{"Bytes":"A"}`, `{"ByID":{"x":""}}`, `{} {}`, `{"Content":"a",}`, `[`,
	} {
		var got, want odd
		gotErr, wantErr := aside.JSON.Decode([]byte(text), &got), json.Unmarshal([]byte(text), &want)
		if (gotErr == nil) != (wantErr == nil) {
			t.Errorf("%s: error %v, encoding/json's is %v", text, gotErr, wantErr)
		} else if wantErr == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", text, got, want)
		}
	}
}

func TestTimesToLive(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	c := overRedis(t, r.Addr, aside.Config{TTLs: map[string]time.Duration{"chat_messages": time.Minute}, Jitter: 0.5})
	client := r.Client()
	for i := range 20 {
		must(aside.GetOrLoad(t.Context(), c, aside.ChatMessages(fmt.Sprint(i)), func(context.Context) (int, error) { return i, nil }))
		aside.AwaitFills(c)
		ttl := client.PTTL(t.Context(), fmt.Sprint("chat_messages:", i)).Val()
		if ttl > time.Minute || ttl < 29*time.Second {
			t.Errorf("time to live %v, want from 30s to 60s", ttl)
		}
	}
}

func TestPeek(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		key := aside.Keyspace{Name: "user", TTL: time.Hour, NotFoundTTL: time.Minute}.Key("42")
		want := func(lo, hi time.Duration, there bool) {
			t.Helper()
			if ttl, ok, err := ttlOf(t.Context(), c, key); ttl < lo || ttl > hi || ok != there || err != nil {
				t.Errorf("got %v, %v, %v; want %v to %v, %v", ttl, ok, err, lo, hi, there)
			}
		}
		want(0, 0, false)
		_, _ = aside.GetOrLoad(t.Context(), c, key, func(context.Context) (int, error) { return 0, aside.ErrNotFound })
		aside.AwaitFills(c)
		if _, _, ok, err := aside.Peek[int](t.Context(), c, key); ok || !errors.Is(err, aside.ErrNotFound) {
			t.Errorf("got %v, %v of a remembered absence, want ErrNotFound", ok, err)
		}
		if err := aside.Invalidate(t.Context(), c, key); err != nil {
			t.Fatal(err)
		}
		must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (int, error) { return 1, nil }))
		want(50*time.Minute, time.Hour, true)
	})
}

func TestTTL_OfOtherBackends(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	if err := server.Set("app:user:42", "1"); err != nil {
		t.Fatal(err)
	}
	key := aside.Keyspace{Name: "user"}.Key("42")
	prefixed := overRedis(t, server.Addr(), aside.Config{KeyPrefix: "app:"})
	if ttl, ok, err := ttlOf(t.Context(), prefixed, key); ttl != 0 || !ok || err != nil {
		t.Errorf("of a value without end: %v, %v, %v", ttl, ok, err)
	}
	if _, ok, err := ttlOf(t.Context(), open(t, aside.Config{Type: "none"}), key); ok || err != nil {
		t.Errorf("with the cache off: %v, %v", ok, err)
	}
	faulty := &asidetest.Faulty{Backend: backendOf(prefixed)}
	over := must(aside.New(faulty, aside.Config{}))
	defer over.Close()
	if _, ok, err := ttlOf(t.Context(), over, key); !ok || err != nil {
		t.Errorf("of a backend that may fail: %v, %v", ok, err)
	}
	faulty.SetFault(func(context.Context, string) error { return errors.New("failed") })
	if _, ok, err := ttlOf(t.Context(), over, key); ok || !errors.Is(err, aside.ErrUnavailable) {
		t.Errorf("of a backend that fails: %v, %v", ok, err)
	}
	server.Close()
	if _, _, err := ttlOf(t.Context(), prefixed, key); !errors.Is(err, aside.ErrUnavailable) {
		t.Errorf("without the server: %v", err)
	}
	if _, _, err := ttlOf(t.Context(), prefixed, aside.Key{}); !errors.Is(err, aside.ErrInvalidKey) {
		t.Errorf("of no key: %v", err)
	}
}
