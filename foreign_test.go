package aside_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside"
)

// turn is a message as services in several languages store it.
type turn struct {
	Role    string    `json:"role"`
	Content string    `json:"content"`
	At      time.Time `json:"at"`
	N       int64     `json:"n"`
}

var foreignTime = "2026-01-02T03:04:05Z"

// foreign are bytes that programs store, with what each of foreignTypes makes of them:
// a hit (H), or a load (.).
var foreign = []struct {
	name, stored, want string
}{
	{"Python, json.dumps", `[{"role": "user", "content": "\uc548\ub155 \ud83d\ude00", "at": "2026-01-02T03:04:05+00:00", "n": 1}]`, "H.H..H."},
	{"Python, ensure_ascii=False", `[{"role": "user", "content": "안녕 😀"}]`, "H.H..H."},
	{"Node, JSON.stringify", `[{"role":"user","content":"안녕","at":"2026-01-02T03:04:05.678Z"}]`, "H.H..H."},
	{"Go, json.Marshal", `[{"role":"user","content":"\u003cb\u003e","at":"2026-01-02T03:04:05.000000001+09:00","n":9223372036854775807}]`, "H.H..H."},
	{"one object", `{"role": "user", "unknown": [1]}`, ".HH..HH"},
	{"other case", `{"ROLE": "user"}`, ".HH..HH"},
	{"Node, a Buffer", `{"type":"Buffer","data":[1,2]}`, ".HH..HH"},
	{"Python, a naive isoformat", `[{"at": "2026-01-02T03:04:05.123456"}]`, "..H..H."},
	{"Python, str of a datetime", `[{"at": "2026-01-02 03:04:05+00:00"}]`, "..H..H."},
	{"Python, a timestamp", `[{"at": 1767323045.5}]`, "..H..H."},
	{"Node, an invalid Date", `[{"at":null}]`, "H.H..H."},
	{"Python, NaN", `[{"role": "user", "n": NaN}]`, "......."},
	{"Python, Infinity", `{"n": -Infinity}`, "......."},
	{"Python, NaN alone", `NaN`, "......."},
	{"Python, None", `None`, "......."},
	{"Python, str of a list", `[{'role': 'user'}]`, "......."},
	{"Python, repr of bytes", `b'[]'`, "......."},
	{"half an emoji, escaped", `"\ud83d"`, "..HH.H."},
	{"half an emoji in a history", `[{"content": "\ud83d"}]`, "H.H..H."},
	{"half an emoji, as bytes", "\"\xed\xa0\xbd\"", "......."},
	{"half an emoji as bytes in a history", "[{\"content\": \"\xed\xa0\xbd\"}]", "......."},
	{"2^53+1", `9007199254740993`, "..H.HH."},
	{"2^53+1 in a message", `{"n": 9007199254740993}`, ".HH..HH"},
	{"2^63", `9223372036854775808`, "..H..H."},
	{"2^64 in a message", `{"n": 18446744073709551616}`, ".HH..H."},
	{"Node, a BigInt as text", `"9007199254740993"`, "..HH.H."},
	{"Python, a float", `7.0`, "..H..H."},
	{"exponent", `1e3`, "..H..H."},
	{"out of range", `1e400`, ".....H."},
	{"leading zero", `07`, "......."},
	{"plain number", `7`, "..H.HH."},
	{"two of a name", `{"role": "a", "role": "b"}`, ".HH..HH"},
	{"two of a name, folded", `{"role": "a", "Role": "b"}`, ".HH..HH"},
	{"byte-order mark", "\ufeff[]", "......."},
	{"UTF-16", "\xff\xfe[\x00]\x00", "......."},
	{"UTF-16 without a mark", "[\x00]\x00", "......."},
	{"pickle, protocol 0", "(lp0\n(dp1\nVrole\np2\nVuser\np3\nsa.", "......."},
	{"pickle, protocol 0, a number", "I7\n.", "......."},
	{"pickle, protocol 4", "\x80\x04\x95\x14\x00\x00\x00\x00\x00\x00\x00]\x94}\x94\x8c\x04role\x94\x8c\x04user\x94sa.", "......."},
	{"gzip", zipped(`[{"role":"user"}]`), "......."},
	{"msgpack", "\x91\x81\xa4role\xa4user", "......."},
	{"Go, gob", gobbed([]string{"user"}), "......."},
	{"PHP, serialize", `a:1:{i:0;s:4:"user";}`, "......."},
	{"YAML", "- role: user\n", "......."},
	{"cp949", "\"\xbe\xc8\xb3\xe7\"", "......."},
	{"cp949 in a history", "[{\"role\": \"user\", \"content\": \"\xbe\xc8\xb3\xe7\"}]", "......."},
	{"cp949 under an unknown name", "{\"role\": \"user\", \"memo\": \"\xbe\xc8\"}", "......."},
	{"cp949 as a name", "{\"\xbe\xc8\": 1}", "......."},
	{"Latin-1", "\"caf\xe9\"", "......."},
	{"overlong", "\"\xc0\xaf\"", "......."},
	{"plain text", "hello", "......."},
	{"empty", "", "......."},
	{"white space", " \n\t ", "......."},
	{"NUL", "\x00", "......."},
	{"white space after it", "[]\r\n", "H.H..H."},
	{"something after it", "[] x", "......."},
	{"NUL after it", "[]\x00", "......."},
	{"two values", "{}{}", "......."},
	{"comma at the end", `[{"role": "user"},]`, "......."},
	{"a comment", "[] // none", "......."},
	{"cut off", `[{"role": "us`, "......."},
	{"control character", "\"a\nb\"", "......."},
	{"null", "null", "HHH..HH"},
	{"null with white space", " null\n", "HHH..HH"},
	{"null in a list", "[null]", "H.H..H."},
	{"null in an object", `{"role": null, "at": null, "n": null}`, ".HH..HH"},
	{"encoded twice", `"[{\"role\": \"user\"}]"`, "..HH.H."},
	{"empty list", "[]", "H.H..H."},
	{"empty object", "{}", ".HH..HH"},
	{"empty text", `""`, "..HH.H."},
	{"true", "true", "..H..H."},
	{"deep", strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999), "..H..H."},
	{"too deep", strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001), "......."},
	{"10 MB of text", `"` + strings.Repeat("안녕 ", 1_500_000) + `"`, "..HH.H."},
	{"1 MB of a history", `[` + strings.Repeat(`{"role":"user","content":"hello, hello"},`, 25_000) + `{}]`, "H.H..H."},
	{"10 MB of nothing", strings.Repeat("\x00", 10<<20), "......."},
}

func zipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	must(w.Write([]byte(text)))
	must(0, w.Close())
	return b.String()
}

func gobbed(value any) string {
	var b bytes.Buffer
	must(0, gob.NewEncoder(&b).Encode(value))
	return b.String()
}

// A value of another program is read as encoding/json reads it, or loaded again and
// replaced. No bytes are ever read as another value.
func TestP8_WhatOtherProgramsStore(t *testing.T) {
	t.Parallel()
	// Room and time for large values on a slow machine.
	cfg := aside.Config{MemoryMaxBytes: 1 << 30, DecodedMaxBytes: 1 << 30, Timeout: time.Minute}
	storingWith(t, cfg, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		loads := int64(0)
		for _, f := range foreign {
			loaded := strings.Join([]string{
				foreignRead(t, c, f.name, f.stored, []turn{{Role: "loaded"}}),
				foreignRead(t, c, f.name, f.stored, map[string]any{"loaded": true}),
				foreignRead[any](t, c, f.name, f.stored, "loaded"),
				foreignRead(t, c, f.name, f.stored, "loaded"),
				foreignRead(t, c, f.name, f.stored, int64(-7)),
				foreignRead(t, c, f.name, f.stored, json.RawMessage(`"loaded"`)),
				foreignRead(t, c, f.name, f.stored, &turn{Role: "loaded"}),
			}, "")
			if loaded != f.want {
				t.Errorf("%s: %s, want %s", f.name, loaded, f.want)
			}
			loads += int64(strings.Count(loaded, "."))
		}
		if n := asideStats(t, c).DecodeErrors; n != loads {
			t.Errorf("%d decode errors counted, want %d", n, loads)
		}
	})
}

// foreignRead reports whether stored is a hit, and checks that it is what encoding/json
// reads, or has been replaced.
func foreignRead[T any](t *testing.T, c aside.Cache, name, stored string, loaded T) string {
	t.Helper()
	key := aside.Keyspace{Name: "foreign"}.Key(fmt.Sprint(reflect.TypeFor[T]()))
	if err := c.Set(t.Context(), key.String(), []byte(stored), time.Minute); err != nil {
		t.Fatal(err)
	}
	var want T
	outcome, calls := "H", 0
	for range 2 { // what the first is given is the second's too
		got, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (T, error) { calls++; return loaded, nil })
		if err != nil {
			t.Fatal(err)
		}
		if want = loaded; calls == 0 {
			want = *new(T)
			if err := json.Unmarshal([]byte(stored), &want); err != nil {
				t.Errorf("%s: a hit as a %T, and encoding/json says %v", name, want, err)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, want %#v", name, got, want)
		}
	}
	if calls > 0 {
		outcome = "."
		if now, ok, _ := c.Get(t.Context(), key.String()); !ok || string(now) == stored || calls > 1 {
			t.Errorf("%s: as a %T: not replaced, after %d loads", name, want, calls)
		}
	}
	return outcome
}

// Some that are worth a look.
func TestP8_WhatOtherProgramsStoreSays(t *testing.T) {
	t.Parallel()
	c := open(t, aside.Config{Type: "memory"})
	says := func(stored string, want any, read func() any) {
		t.Helper()
		if err := c.Set(t.Context(), "several:1", []byte(stored), time.Minute); err != nil {
			t.Fatal(err)
		}
		if got := read(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, want %#v", stored, got, want)
		}
	}
	space := aside.Keyspace{Name: "several"}
	says(`9007199254740993`, int64(9007199254740993), func() any { return readAs[int64](t, c, space) })
	says(`9007199254740993`, 9007199254740992.0, func() any { return readAs[any](t, c, space) }) // as encoding/json has it
	says(`9007199254740993`, json.RawMessage("9007199254740993"), func() any { return readAs[json.RawMessage](t, c, space) })
	says(`"\ud83d!"`, "\ufffd!", func() any { return readAs[string](t, c, space) }) // there is no other text for it
	says(`{"role":"a","Role":"b"}`, &turn{Role: "b"}, func() any { return readAs[*turn](t, c, space) })
	says(`[{"role":"a"},null]`, []turn{{Role: "a"}, {}}, func() any { return readAs[[]turn](t, c, space) })
	says(`[{"at":"`+foreignTime+`"}]`, []turn{{At: must(time.Parse(time.RFC3339, foreignTime))}}, func() any { return readAs[[]turn](t, c, space) })
	says(`null`, []turn(nil), func() any { return readAs[[]turn](t, c, space) })
}
