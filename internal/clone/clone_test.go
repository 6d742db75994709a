package clone_test

import (
	"encoding/json"
	"math/big"
	"reflect"
	"testing"
	"time"

	"github.com/cacheaside/aside/internal/clone"
)

type (
	part struct {
		Kind string
		Meta map[string]string
	}
	base struct{ Tags []string }
	tree struct {
		base
		At     time.Time
		Until  *time.Time
		Raw    json.RawMessage
		Parts  []part
		ByName map[string]part
		Scores [2][]int
		Rest   any
		Kids   []*tree
		seen   int
	}
	// opaque has a pointer that JSON does not set.
	opaque struct {
		Name string
		p    *int
	}
	// hidden decodes itself.
	hidden struct{ n *int }
	named  []hidden
	// sealed decodes itself, to a value that JSON does not make.
	sealed struct{ Value any }
)

func (h *hidden) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &h.n) }

func (s *sealed) UnmarshalJSON([]byte) error { s.Value = new(int); return nil }

var _ = []any{tree{seen: 1}, opaque{p: nil}} // JSON leaves them alone

const treeJSON = `{"Tags":["a"],"At":"2026-01-02T03:04:05Z","Until":"2026-01-02T03:04:05+09:00","Raw":[1],
	"Parts":[{"Kind":"k","Meta":{"a":"b"}}],"ByName":{"x":{"Meta":{"c":"d"}}},"Scores":[[1,2],null],
	"Rest":{"list":[1,{"m":[]}],"null":null},"Kids":[{"Kids":[{"Tags":[]}]},null]}`

func TestValue_IsEqualAndSharesNothing(t *testing.T) {
	t.Parallel()
	isOwn[tree](t, treeJSON)
	isOwn[*tree](t, treeJSON)
	isOwn[[]*tree](t, "["+treeJSON+",null]")
	isOwn[map[string][]tree](t, `{"a":[`+treeJSON+`],"b":null}`)
	isOwn[any](t, treeJSON)
	isOwn[[]any](t, `[1,"a",[true,[]],{"a":{}}]`)
	isOwn[[2]map[string]int](t, `[{"a":1},null]`)
	isOwn[[]byte](t, `"QUJD"`)
	isOwn[string](t, `"text"`)
	isOwn[[]int](t, `null`)
	isOwn[**[]int](t, `[1]`)
}

// isOwn checks a copy, then overwrites it and checks that its original is as before.
func isOwn[T any](t *testing.T, data string) {
	t.Helper()
	var value, want T
	for _, p := range []*T{&value, &want} {
		if err := json.Unmarshal([]byte(data), p); err != nil {
			t.Fatal(err)
		}
	}
	plan, ok := clone.Of[T]()
	if !ok {
		t.Fatalf("a %T cannot be copied", value)
	}
	got := clone.Value(plan, value)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%T: the copy is %+v, want %+v", value, got, want)
	}
	overwrite(reflect.ValueOf(&got).Elem())
	if !reflect.DeepEqual(value, want) {
		t.Errorf("%T: after its copy was overwritten the original is %+v, want %+v", value, value, want)
	}
}

// overwrite sets all that can be reached from v to zero.
func overwrite(v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			overwrite(v.Index(i))
		}
	case reflect.Map:
		for all := v.MapRange(); all.Next(); {
			overwrite(all.Value())
		}
		v.Clear()
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			overwrite(v.Elem())
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			break
		}
		for i := range v.NumField() {
			overwrite(v.Field(i))
		}
	}
	if v.CanSet() {
		v.SetZero()
	}
}

func TestOf_TypesThatCannotBeCopied(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]func() (clone.Plan, bool){
		"it decodes itself":                clone.Of[hidden],
		"it decodes itself to any":         clone.Of[sealed],
		"its elements do":                  clone.Of[named],
		"so does what it points to":        clone.Of[*big.Int],
		"a pointer in an unexported field": clone.Of[opaque],
		"an interface with methods":        clone.Of[struct{ Err error }],
		"a map's keys are pointers":        clone.Of[map[*int]int],
		"a channel":                        clone.Of[chan int],
		"a function":                       clone.Of[func()],
	} {
		if _, ok := of(); ok {
			t.Errorf("%s: want no plan", name)
		}
	}
}

type (
	wide[T any] struct{ A, B *T }
	w5          = wide[wide[wide[wide[wide[part]]]]]
	w10         = wide[wide[wide[wide[wide[w5]]]]]
	w20         = wide[wide[wide[wide[wide[wide[wide[wide[wide[wide[w10]]]]]]]]]]
	w30         = wide[wide[wide[wide[wide[wide[wide[wide[wide[wide[w20]]]]]]]]]]
)

// A type is inspected once, however many types have it in them: w30 has it a billion times.
func TestOf_TypesThatReferToEachOther(t *testing.T) {
	t.Parallel()
	isOwn[w30](t, `{"A":{"A":{}},"B":{"B":null}}`)
}

// A value without parts of its own costs nothing to copy.
func TestValue_OfATextAllocatesNothing(t *testing.T) {
	text := "a text"
	if n := testing.AllocsPerRun(100, func() {
		plan, _ := clone.Of[string]()
		text = clone.Value(plan, text)
	}); n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
