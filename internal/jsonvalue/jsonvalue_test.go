package jsonvalue_test

import (
	"encoding/json"
	"errors"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

// The tests of package aside run the same code with types at random and with many more
// types that lose something.

type (
	room struct {
		ID    int64             `json:"id"`
		Names []string          `json:"names"`
		At    time.Time         `json:"at"`
		Meta  map[string]any    `json:"meta,omitempty"`
		By    map[string]*room  `json:"by,omitempty"`
		Raw   json.RawMessage   `json:"raw,omitempty"`
		Texts map[string]string `json:"texts,omitempty"`
	}
	// masked has a method that leaves its text out.
	masked string
	// cents has the methods of its pointer only.
	cents struct{ n int64 }
	// refusing quotes the value in its errors.
	refusing struct{ s string }
	// forV2 has methods that json/v2 calls and encoding/json does not.
	forV2 struct{ Text string }
)

func (masked) MarshalJSON() ([]byte, error)         { return []byte(`"***"`), nil }
func (c *cents) MarshalJSON() ([]byte, error)       { return json.Marshal(c.n) }
func (c *cents) UnmarshalJSON(data []byte) error    { return json.Unmarshal(data, &c.n) }
func (r refusing) MarshalJSON() ([]byte, error)     { return nil, errors.New("no " + r.s) }
func (r *refusing) UnmarshalJSON(data []byte) error { return errors.New("no " + string(data)) }
func (forV2) MarshalJSONTo(e *jsontext.Encoder) error {
	return e.WriteToken(jsontext.String("v2"))
}
func (v *forV2) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	v.Text = "v2"
	return d.SkipValue()
}
func newOf(value any) (v reflect.Value, ptr any) {
	v = reflect.New(reflect.TypeOf(value))
	return v, v.Interface()
}

func TestEncode_ThenDecode(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, value := range []any{
		"text", 1, 1.5, true, []byte("bytes"), []int(nil), map[string]int(nil), (*int)(nil), new(int),
		room{ID: 1, Names: []string{"a", "\ufffd"}, At: at, Meta: map[string]any{"n": 1.0, "list": []any{nil, "x"}}, Raw: json.RawMessage(`{"a":1}`)},
		[]room{{By: map[string]*room{"a": {ID: 2}}}}, cents{5}, []cents{{5}}, map[string]*big.Int{"a": big.NewInt(7)},
	} {
		data, err := jsonvalue.Encode(value)
		if err != nil {
			t.Errorf("%#v is refused: %v", value, err)
			continue
		}
		back, ptr := newOf(value)
		if err := jsonvalue.Decode(data, ptr); err != nil || !reflect.DeepEqual(back.Elem().Interface(), value) {
			t.Errorf("%#v is decoded from %s to %#v, %v", value, data, back.Elem(), err)
		}
	}
}

func TestEncode_RefusesWhatItsJSONLoses(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]any{
		"text that is not UTF-8":           "caf\xe9",
		"the same in an interface":         map[string]any{"a": []any{"caf\xe9"}},
		"a method of one direction":        masked("s"),
		"the same behind an interface":     map[string]any{"a": masked("s")},
		"methods for json/v2 alone":        forV2{"a"},
		"a pointer to a nil":               new([]int(nil)),
		"methods of a pointer in a map":    map[string]cents{"a": {5}},
		"an interface that has methods":    struct{ Err error }{errors.New("e")},
		"JSON of a method, not UTF-8":      json.RawMessage("\"\xe9\""),
		"a method's error, with the value": refusing{"4242"},
	} {
		if data, err := jsonvalue.Encode(value); err == nil {
			t.Errorf("%s: got %s, want an error", name, data)
		} else if strings.Contains(err.Error(), "4242") {
			t.Errorf("%s: the error shows the value: %v", name, err)
		}
	}
}

// An error says at which byte and in which field, and shows nothing of the data.
func TestDecode_Errors(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		`{"id":"4242"}`:              `want a int64, not a JSON string, at byte 12, field "id"`,
		`{"id":4242`:                 "it is cut or wrong at byte 10",
		`{"at":"4242"}`:              "a decoding method refuses a part of it at byte 6, /at",
		`{"by":{"4242":{"at":"x"}}}`: "/by/*/at",
		"{\"names\":[\"4242\xe9\"]}": "want JSON in UTF-8",
	} {
		var value room
		err := jsonvalue.Decode([]byte(data), &value)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "4242") {
			t.Errorf("%q: got %v, want %q and nothing of the data", data, err, want)
		}
	}
	if err := jsonvalue.Decode([]byte(`4242`), new(refusing)); err == nil || strings.Contains(err.Error(), "4242") {
		t.Errorf("of a method: got %v, want an error without the data", err)
	}
	if err := jsonvalue.Decode([]byte(`1`), nil); err == nil {
		t.Error("no pointer to decode to: want an error")
	}
}

// A type has the meaning that encoding/json gives it, also where json/v2 has another.
func TestDecode_AsEncodingJSON(t *testing.T) {
	t.Parallel()
	var got, want forV2
	const data = `{"Text":"a"}`
	if err := json.Unmarshal([]byte(data), &want); err != nil {
		t.Fatal(err)
	}
	if err := jsonvalue.Decode([]byte(data), &got); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestDecodesItself(t *testing.T) {
	t.Parallel()
	for typ, want := range map[reflect.Type]bool{
		reflect.TypeFor[room]():      false,
		reflect.TypeFor[string]():    false,
		reflect.TypeFor[cents]():     true,
		reflect.TypeFor[time.Time](): true,
		reflect.TypeFor[big.Float](): true,
		reflect.TypeFor[masked]():    false, // it encodes itself only
	} {
		if got := jsonvalue.DecodesItself(typ); got != want {
			t.Errorf("%v: got %v, want %v", typ, got, want)
		}
	}
}

// These values come back as they do with encoding/json. Some tags make others do so.
func TestEncode_WhatEncodingJSONMakesOfIt(t *testing.T) {
	t.Parallel()
	type plain struct {
		Raw  json.RawMessage
		Num  json.Number
		List []int
	}
	type omitted struct {
		Raw  json.RawMessage `json:",omitempty"`
		Num  json.Number     `json:",omitempty"`
		List []int           `json:",omitempty"`
	}
	for _, tt := range []struct{ value, want any }{
		{plain{List: []int{}}, plain{json.RawMessage("null"), "0", []int{}}},
		{plain{Raw: json.RawMessage(`{"a": 1}`)}, plain{json.RawMessage(`{"a":1}`), "0", nil}},
		{omitted{List: []int{}}, omitted{}},
		{omitted{}, omitted{}},
	} {
		data, err := jsonvalue.Encode(tt.value)
		back, ptr := newOf(tt.value)
		if err := errors.Join(err, jsonvalue.Decode(data, ptr)); err != nil || !reflect.DeepEqual(back.Elem().Interface(), tt.want) {
			t.Errorf("%#v: got %#v, %v; want %#v", tt.value, back.Elem(), err, tt.want)
		}
	}
}
