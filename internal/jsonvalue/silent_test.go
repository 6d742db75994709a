package jsonvalue_test

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

type (
	// telling refuses with an error of encoding/json that has the value in all of its parts.
	telling struct{}
	// tellsKey refuses to be a key, and quotes it in the error.
	tellsKey struct{ s string }
	// tellsLate refuses with errors of encoding/json that it makes itself.
	tellsLate struct{}
	kept      struct {
		In []struct {
			T telling `json:"t"`
			N int     `json:"n"`
		} `json:"in"`
		Num json.Number `json:"num"`
	}
)

func (*telling) UnmarshalJSON(data []byte) error {
	return &json.UnmarshalTypeError{Value: string(data), Field: string(data), Type: reflect.TypeFor[int](), Struct: string(data)}
}
func (k tellsKey) MarshalText() ([]byte, error) { return nil, errors.New("no " + k.s) }
func (tellsLate) MarshalJSON() ([]byte, error) {
	return nil, &json.UnsupportedValueError{Str: "4242"}
}
func (*tellsLate) UnmarshalJSON(data []byte) error {
	return &json.UnmarshalTypeError{Value: "number", Field: "in." + string(data), Type: reflect.TypeFor[int]()}
}

// Errors of encoding/json show the value in many ways, and errors of methods that imitate them
// show it in more.
func TestErrors_ShowNothingOfTheValue(t *testing.T) {
	t.Parallel()
	loop := map[string]any{}
	loop["4242"] = loop
	for name, tt := range map[string]struct {
		value any
		want  string
	}{
		"number": {json.Number("4242-1"), "json.Number"}, "key": {map[tellsKey]int{{"4242"}: 1}, "map[jsonvalue_test.tellsKey]int"}, "method": {tellsLate{}, "jsonvalue_test.tellsLate"},
		"type": {map[string]any{"4242": make(chan int)}, "chan int"}, "NaN": {[]float64{4242, math.NaN()}, "NaN"}, "cycle": {loop, "cycle"},
	} {
		if data, err := jsonvalue.Encode(tt.value); err == nil || strings.Contains(err.Error(), "4242") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %s, %v; want an error with %q and nothing of the value", name, data, err, tt.want)
		}
	}
	for _, tt := range []struct {
		ptr        any
		data, want string
	}{
		{new(kept), `{"in":[{"t":"4242"}]}`, "/in/0/t, with a *json.UnmarshalTypeError"},
		{new(telling), `"4242"`, "a decoding method refuses a part of it at byte 0, with a *json.UnmarshalTypeError"},
		{new(tellsLate), `4242`, "not a JSON number, at byte 0"},
		{new(map[string]tellsLate), `{"4242":4242}`, "not a JSON number"},
		{new(kept), `{"in":[{"n":"4242"}]}`, `not a JSON string, at byte 18, field "in.n"`},
		{new(kept), `{"num":"4242x"}`, "a part of it does not decode"},
		{new(json.Number), `"4242x"`, "a part of it does not decode"},
	} {
		err := jsonvalue.Decode([]byte(tt.data), tt.ptr)
		if err == nil || strings.Contains(err.Error(), "4242") || strings.Contains(err.Error(), ", ,") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%T of %s: got %v, want %q and nothing of the data", tt.ptr, tt.data, err, tt.want)
		}
	}
}
