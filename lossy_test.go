package aside_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/logtest"
)

type (
	// money has JSON methods of its pointer only, as big.Float has text methods.
	money struct{ cents int64 }
	// ordered is an ordered map, as there are many.
	ordered struct{ keys []string }
	// secret is encoded without its text, and decoded to what it was encoded to.
	secret string
	// role is encoded by name, and not decoded by it.
	role string
	// computed adds to its JSON, and is decoded without methods.
	computed struct {
		First, Last string
		Tags        []string `json:",omitempty"`
	}
	// sealedCents is encoded by a method, and decoded without one.
	sealedCents struct{ cents int64 }
	// event has the JSON methods of its time, which know nothing of its name.
	event struct {
		time.Time
		Name string
	}
	// optional is null when it is not valid, as those of SQL drivers.
	optional struct {
		Valid bool
		Text  string
	}
	// lower is a key that decodes itself, and is encoded without a method.
	lower string
	// roundKey has the text of another.
	roundKey struct{ n int }
	base     struct {
		Note string `json:"note,omitempty"`
	}
	onBase struct {
		*base
		N int
	}
	OnBase struct {
		Note string `json:"note,omitempty"`
	}
	onTheir struct {
		*OnBase
		N int
	}
	since struct {
		At *time.Time `json:"at,omitzero"`
	}
	level      int
	quotedSelf struct {
		Level level `json:"level,string"`
	}
)

func (m *money) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `"%d.%02d"`, m.cents/100, m.cents%100), nil
}
func (m *money) UnmarshalJSON(data []byte) error {
	if string(data) == "{}" {
		return nil // as lenient as many are
	}
	var whole, part int64
	_, err := fmt.Sscanf(string(data), `"%d.%d"`, &whole, &part)
	m.cents = whole*100 + part
	return err
}
func (o *ordered) MarshalJSON() ([]byte, error) { return json.Marshal(map[string]any{"keys": o.keys}) }
func (o *ordered) UnmarshalJSON(data []byte) error {
	var v struct{ Keys []string }
	err := json.Unmarshal(data, &v)
	o.keys = v.Keys
	return err
}
func (secret) MarshalJSON() ([]byte, error) { return []byte(`"***"`), nil }
func (r role) MarshalText() ([]byte, error) { return []byte("role:" + r), nil }
func (c computed) MarshalJSON() ([]byte, error) {
	type plain computed
	return json.Marshal(struct {
		plain
		Name string
	}{plain(c), c.First + " " + c.Last})
}
func (s sealedCents) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `{"cents":%d}`, s.cents), nil
}
func (o optional) MarshalJSON() ([]byte, error) {
	if !o.Valid {
		return []byte("null"), nil
	}
	return json.Marshal(o.Text)
}
func (o *optional) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	o.Valid = true
	return json.Unmarshal(data, &o.Text)
}
func (l *lower) UnmarshalText(text []byte) error {
	*l = lower(strings.ToLower(string(text)))
	return nil
}
func (k roundKey) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%d", k.n/10*10), nil }
func (k *roundKey) UnmarshalText(text []byte) error {
	_, err := fmt.Sscan(string(text), &k.n)
	return err
}
func (l level) MarshalJSON() ([]byte, error)     { return fmt.Appendf(nil, "%d", int(l)), nil }
func (l *level) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, (*int)(l)) }
func (onlyV2) Speak()                            {}

// comesBack checks that all readers of a value have the value, by a hit if it is to
// be stored, and else because it is not: then it is counted once a key, as the next
// callers load without a try, and told of once.
func comesBack[T any](t *testing.T, name string, value T, stored bool) {
	t.Helper()
	var log logtest.Buffer
	c := open(t, aside.Config{Type: "memory", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	loads := int64(0)
	for _, id := range []string{"A", "A", "B", "B"} {
		key := aside.Keyspace{Name: "back"}.Key(id)
		got, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (T, error) { loads++; return value, nil })
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, value) {
			t.Errorf("%s: got %#v, want %#v", name, got, value)
		}
		if data, ok, _ := c.Get(t.Context(), key.String()); ok != stored {
			t.Errorf("%s: stored %v (%q), want %v", name, ok, data, stored)
		}
	}
	want, refused, lines := int64(2), int64(0), 0
	if !stored {
		want, refused, lines = 4, 2, 1
	}
	if s := asideStats(t, c); loads != want || s.EncodeErrors != refused || s.DecodeErrors != 0 {
		t.Errorf("%s: %d loads, want %d; counted %+v", name, loads, want, s)
	}
	if n := strings.Count(log.String(), "not stored"); n != lines {
		t.Errorf("%s: %d lines logged, want %d:\n%s", name, n, lines, log.String())
	}
}

// A value whose JSON says another one is not stored.
func TestP8_WhatDoesNotComeBackIsNotStored(t *testing.T) {
	t.Parallel()
	t.Run("text", func(t *testing.T) {
		t.Parallel()
		latin := "caf\xe9"
		comesBack(t, "string", latin, false)
		comesBack(t, "field", []message{{Content: latin}}, false)
		comesBack(t, "lone surrogate", "\xed\xa0\x80", false)
		comesBack(t, "one key", map[string]int{latin: 1}, false)
		comesBack(t, "two keys", map[string]int{"\xe8": 1, "\xe9": 2}, false)
		comesBack(t, "any", any(latin), false)
		comesBack(t, "in any", map[string]any{"a": []any{latin}}, false)
		comesBack(t, "struct in any", []any{part{Kind: latin}}, false)
		comesBack(t, "pointer", &latin, false)
		comesBack(t, "quoted", struct {
			S string `json:",string"`
		}{latin}, false)
		comesBack(t, "text methods", byText{latin}, false)
		comesBack(t, "JSON methods", optional{true, latin}, false)
		comesBack(t, "raw", json.RawMessage("\"\xe9\""), false)
		comesBack(t, "raw in any", map[string]any{"a": json.RawMessage("\"\xe9\"")}, false)

		comesBack(t, "U+FFFD", "\ufffd 안녕", true)
		comesBack(t, "what looks like its escape", `\ufffd`, true)
		comesBack(t, "raw with an escape", struct{ R json.RawMessage }{json.RawMessage(`"\ufffd"`)}, true)
		comesBack(t, "bytes", []byte(latin), true)
		comesBack(t, "bytes in a field", struct{ B []byte }{[]byte(latin)}, true)
	})
	t.Run("methods of pointers", func(t *testing.T) {
		t.Parallel()
		m := money{1250}
		comesBack(t, "top", m, true)
		comesBack(t, "pointer", &m, true)
		comesBack(t, "field", struct{ M money }{m}, true)
		comesBack(t, "slice", []money{m, {7}}, true)
		comesBack(t, "array", [1]money{m}, true)
		comesBack(t, "struct in an array in a struct", struct{ A [1]struct{ M money } }{[1]struct{ M money }{{m}}}, true)
		comesBack(t, "slice in a map", map[string][]money{"a": {m}}, true)
		comesBack(t, "pointer in a map", map[string]*money{"a": &m}, true)
		comesBack(t, "map", map[string]money{"a": m}, false)
		comesBack(t, "struct in a map", map[string]struct{ M money }{"a": {m}}, false)
		comesBack(t, "array in a map", map[string][1]money{"a": {m}}, false)
		comesBack(t, "any", map[string]any{"a": m}, false)
		comesBack(t, "map in a struct in any", []any{struct{ M map[string]money }{map[string]money{"a": m}}}, false)
		comesBack(t, "list in any", []any{[]any{m}}, false)
		comesBack(t, "struct in any", []any{struct{ M money }{m}}, false)
		comesBack(t, "ordered map", ordered{[]string{"b", "a"}}, true)
		comesBack(t, "ordered map in a field", []struct{ O ordered }{{ordered{[]string{"b"}}}}, true)
		comesBack(t, "ordered map in a map", map[string]ordered{"a": {[]string{"b"}}}, false)
		comesBack(t, "text", byText{"a"}, true)
		comesBack(t, "text in a map", map[string]byText{"a": {"a"}}, false)

		f, _, err := big.ParseFloat("1.5", 10, 64, big.ToNearestEven)
		if err != nil {
			t.Fatal(err)
		}
		comesBack(t, "big.Float", *f, true)
		comesBack(t, "*big.Float", f, true)
		comesBack(t, "big.Float in a field", struct{ F big.Float }{*f}, true)
		comesBack(t, "big.Float in a map", map[string]big.Float{"a": *f}, false)
		comesBack(t, "big.Int", map[string]*big.Int{"a": big.NewInt(7)}, true)
	})
	t.Run("pointers to nil", func(t *testing.T) {
		t.Parallel()
		var list []int
		var dict map[string]int
		var ptr *int
		var raw json.RawMessage
		comesBack(t, "slice", &list, false)
		comesBack(t, "map", &dict, false)
		comesBack(t, "pointer", &ptr, false)
		comesBack(t, "pointer to it", new(&ptr), false)
		comesBack(t, "interface", new(any), false)
		comesBack(t, "raw", &raw, false)
		comesBack(t, "field", struct{ L *[]int }{&list}, false)
		comesBack(t, "omitempty", struct {
			L *[]int `json:",omitempty"`
		}{&list}, false)
		comesBack(t, "deep", map[string][]*map[string]int{"a": {&dict}}, false)
		comesBack(t, "null by a method", &optional{}, false)
		comesBack(t, "of a struct with omitzero", since{new(time.Time)}, false)
		comesBack(t, "of an embedded struct that is empty", onTheir{&OnBase{}, 1}, false)

		full := []int{1}
		comesBack(t, "full slice", &full, true)
		comesBack(t, "empty slice", &[]int{}, true)
		comesBack(t, "nil pointer", (*[]int)(nil), true)
		comesBack(t, "null beside", struct {
			L *[]int
			P *int
			O *optional
		}{L: &full, O: &optional{true, "null"}}, true)
		comesBack(t, "nil slice", []int(nil), true)
		comesBack(t, "null by a method, not pointed to", optional{}, true)
		comesBack(t, "of an embedded struct", onTheir{&OnBase{"a"}, 1}, true)
		now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
		comesBack(t, "time", since{&now}, true)
	})
	t.Run("methods of one direction", func(t *testing.T) {
		t.Parallel()
		comesBack(t, "secret", secret("s"), false)
		comesBack(t, "secret in a field", []struct{ S secret }{{"s"}}, false)
		comesBack(t, "role", map[string]role{"a": "admin"}, false)
		comesBack(t, "computed", computed{First: "A", Last: "B"}, true)
		comesBack(t, "cents", sealedCents{5}, false)
		comesBack(t, "embedded time", event{time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), "n"}, false)
		comesBack(t, "json/v2", onlyV2{"a"}, false)
		comesBack(t, "json/v2 in a field", []struct{ V onlyV2 }{{onlyV2{"a"}}}, false)
		comesBack(t, "json/v2 in any", map[string]any{"a": onlyV2{"a"}}, false)
		comesBack(t, "both", bothV2{"a"}, true)
		comesBack(t, "quoted", quotedSelf{5}, false)
		comesBack(t, "tags of json/v2", embedded{Outer: Outer{"a", []int{1}}, Rest: map[string]any{"a": "b"}}, true)
		comesBack(t, "strict", strict{"f", 7, "h"}, true)
	})
	t.Run("no place in the JSON", func(t *testing.T) {
		t.Parallel()
		comesBack(t, "key that is another", map[lower]int{"A": 1}, false)
		comesBack(t, "keys that are one", map[roundKey]int{{21}: 1, {22}: 2}, false)
		comesBack(t, "keys", map[roundKey]int{{20}: 1, {30}: 2}, true)
		twice := reflect.New(reflect.StructOf([]reflect.StructField{
			{Name: "A", Type: reflect.TypeFor[string](), Tag: `json:"x"`}, {Name: "B", Type: reflect.TypeFor[string](), Tag: `json:"x"`},
		})).Elem()
		twice.Field(0).SetString("a")
		comesBack(t, "two fields of a name", twice.Interface(), false)
		comesBack(t, "embedded pointer that is not decoded", onBase{&base{"a"}, 1}, false)
		comesBack(t, "interface", struct{ S speaks }{onlyV2{}}, false)
		comesBack(t, "nil interface", struct{ S speaks }{}, true)
		comesBack(t, "error", struct{ Err error }{errors.New("e")}, false)
	})
}
