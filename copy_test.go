package aside_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"reflect"
	"testing"
	"time"
	"unsafe"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
)

type (
	part struct {
		Kind string            `json:"kind"`
		Meta map[string]string `json:"meta"`
	}
	reply struct {
		message
		At      time.Time       `json:"at"`
		Until   *time.Time      `json:"until"`
		Raw     json.RawMessage `json:"raw"`
		Parts   []part          `json:"parts"`
		ByName  map[string]part `json:"by_name"`
		Scores  [2][]int        `json:"scores"`
		Rest    any             `json:"rest"`
		Answers []*reply        `json:"answers"`
		seen    int
	}
	// hidden decodes itself, to memory that no copier can reach.
	hidden struct{ n *int }
	// opaque has memory that no copier can reach, and nothing is decoded to it.
	opaque struct {
		Name string `json:"name"`
		p    *int
	}
	named []hidden
	// sealed decodes itself, to what JSON has no name for.
	sealed struct{ Value any }
)

// JSON leaves them alone.
var _ = []any{reply{seen: 1}, opaque{p: new(int)}}

func (h *hidden) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &h.n) }

func (s *sealed) UnmarshalJSON(data []byte) error {
	n := new(int)
	s.Value = n
	return json.Unmarshal(data, n)
}

// Each reader's value is what its bytes say, and no memory of it is another's,
// whether it was decoded or copied.
func TestP9_EachReaderHasAValueOfItsOwn(t *testing.T) {
	t.Parallel()
	const deep = `{"content":"c","at":"2026-01-02T03:04:05Z","until":"2026-01-02T03:04:05+09:00","raw":{"a": [1]},
		"parts":[{"kind":"text","meta":{"a":"b"}},{"meta":null}],"by_name":{"x":{"kind":"k","meta":{"c":"d"}}},
		"scores":[[1,2],null],"rest":{"a":[1,"b",{"c":null},[]],"d":true},"answers":[null,{"answers":[{"content":"leaf"}],"rest":[]}]}`
	ownValues[[]message](t, `[{"content":"a"},{"content":"b"}]`, `[]`, `null`)
	ownValues[reply](t, deep, `{}`)
	ownValues[*reply](t, deep, `null`)
	ownValues[map[string][]reply](t, `{"a":[`+deep+`],"b":[],"c":null}`, `{}`)
	ownValues[any](t, deep, `[]`, `"text"`, `1`, `false`, `null`)
	ownValues[[]map[string]any](t, `[`+deep+`,null]`)
	ownValues[string](t, `"text"`)
	ownValues[json.RawMessage](t, `{"a": 1}`)
	ownValues[time.Time](t, `"2026-01-02T03:04:05+09:00"`)
	ownValues[hidden](t, `1`)
	ownValues[named](t, `[1,2]`)
	ownValues[map[string]*hidden](t, `{"a":1}`)
	ownValues[sealed](t, `1`)
	ownValues[opaque](t, `{"name":"n"}`)
	ownValues[*big.Int](t, `12345678901234567890123`)
	ownValues[[]big.Int](t, `[12345678901234567890123]`)
}

func ownValues[T any](t *testing.T, stored ...string) {
	t.Helper()
	c := open(t, aside.Config{Type: "memory"})
	key := aside.Keyspace{Name: "own"}.Key("1")
	for _, data := range stored {
		var want T
		if err := json.Unmarshal([]byte(data), &want); err != nil {
			t.Fatal(err)
		}
		if err := c.Set(t.Context(), key.String(), []byte(data), time.Minute); err != nil {
			t.Fatal(err)
		}
		owner := make(map[unsafe.Pointer]int) // by address, which is not used again meanwhile
		for reader := range 3 {
			got := must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (T, error) {
				return want, errors.New("loaded")
			}))
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%T: reader %d has %+v for %s, want %+v", want, reader, got, data, want)
			}
			for _, p := range memory(reflect.ValueOf(&got).Elem(), nil) {
				if other, taken := owner[p]; taken && other != reader {
					t.Errorf("%T: readers %d and %d share memory for %s", want, other, reader, data)
				}
				owner[p] = reader
			}
			overwrite(reflect.ValueOf(&got).Elem())
		}
	}
}

// A key that is read as several types is each time what its bytes say.
func TestP9_AKeyThatIsReadAsSeveralTypes(t *testing.T) {
	t.Parallel()
	for _, space := range []aside.Keyspace{{Name: "several"}, {Name: "several", Share: true}} {
		c := open(t, aside.Config{Type: "memory"})
		if err := c.Set(t.Context(), "several:1", []byte(`[{"content":"a"}]`), time.Minute); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if v := readAs[[]message](t, c, space); v[0].Content != "a" {
				t.Errorf("as messages: %v", v)
			}
			if v, want := readAs[any](t, c, space), []any{map[string]any{"content": "a"}}; !reflect.DeepEqual(v, any(want)) {
				t.Errorf("as any: %#v", v)
			}
			if v := readAs[json.RawMessage](t, c, space); string(v) != `[{"content":"a"}]` {
				t.Errorf("as it is: %s", v)
			}
		}
	}
}

// A backend may keep the bytes that it returns.
func TestP9_BytesOfABackendOfOnesOwn(t *testing.T) {
	t.Parallel()
	store := struct{ backend.Backend }{asidetest.Memory()}
	c := must(aside.New(&store, aside.Config{}))
	defer c.Close()
	space := aside.Keyspace{Name: "own", Codec: aside.Bytes}
	if err := c.Set(t.Context(), "own:1", []byte("Hello"), time.Minute); err != nil {
		t.Fatal(err)
	}
	text := readAs[string](t, c, space)
	copy(readAs[[]byte](t, c, space), "J")
	if again := readAs[string](t, c, space); text != "Hello" || again != "Hello" {
		t.Errorf("what a reader wrote is read by others: %q, %q", text, again)
	}
}

// Types that refer to each other in many ways are looked at once each.
func TestCopiesOfTypesThatReferToEachOther(t *testing.T) {
	t.Parallel()
	ownValues[d30](t, `{"A":{"A":{}},"B":{"B":null}}`)
}

type (
	wide[T any] struct{ A, B *T }
	d5          = wide[wide[wide[wide[wide[part]]]]]
	d10         = wide[wide[wide[wide[wide[d5]]]]]
	d20         = wide[wide[wide[wide[wide[wide[wide[wide[wide[wide[d10]]]]]]]]]]
	d30         = wide[wide[wide[wide[wide[wide[wide[wide[wide[wide[d20]]]]]]]]]]
)

func readAs[T any](t *testing.T, c aside.Cache, space aside.Keyspace) T {
	t.Helper()
	return must(aside.GetOrLoad(t.Context(), c, space.Key("1"), func(context.Context) (v T, err error) { return v, errors.New("loaded") }))
}

// memory lists the addresses of what v refers to and can be modified.
func memory(v reflect.Value, found []unsafe.Pointer) []unsafe.Pointer {
	if v.Type() == reflect.TypeFor[time.Time]() {
		return found
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.Pointer:
		if v.IsNil() || v.Kind() == reflect.Slice && v.Len() == 0 {
			return found
		}
		found = append(found, v.UnsafePointer())
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			found = memory(v.Index(i), found)
		}
	case reflect.Map:
		for all := v.MapRange(); all.Next(); {
			found = memory(all.Value(), found)
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			found = memory(v.Elem(), found)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			found = memory(v.Field(i), found)
		}
	}
	return found
}

// overwrite sets what a caller can reach of its value to zero.
func overwrite(v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			overwrite(v.Index(i))
		}
	case reflect.Map:
		v.Clear()
		return
	case reflect.Pointer:
		if !v.IsNil() {
			overwrite(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			overwrite(v.Field(i))
		}
	}
	if v.CanSet() {
		v.SetZero()
	}
}
