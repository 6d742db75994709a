// Package clone copies values that JSON was decoded to, so that each caller can have one
// of its own without decoding the JSON again: a copy of 50 messages takes a fiftieth of
// the time in which their JSON is decoded.
//
// A copy is equal to what the same JSON would be decoded to once more, and shares nothing
// with the original that can be modified. [Of] finds out once per type how its values are
// copied, and whether they can be: a type with methods that decode it, pointers in
// unexported fields or interfaces with methods may have anything inside.
package clone

import (
	"reflect"
	"sync"
	"time"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

// Plan is how values of one type are copied. Its zero value assigns them.
type Plan struct{ copier copier }

// copier makes a value that was assigned share nothing that can be modified with the value
// that it was assigned from. It is nil for types whose assignment does that.
type copier func(v reflect.Value)

// planned is a type's Plan, if its values can be copied.
type planned struct {
	plan Plan
	ok   bool
}

var plans sync.Map // reflect.Type: planned

// Of returns how a T that JSON was decoded to is copied, and whether it can be. It is quick
// for a type that it was asked of before.
func Of[T any]() (p Plan, ok bool) {
	t := reflect.TypeFor[T]()
	if known, ok := plans.Load(t); ok {
		known := known.(planned)
		return known.plan, known.ok
	}
	var c planned
	c.plan.copier, c.ok = copiers{}.of(t)
	plans.Store(t, c)
	return c.plan, c.ok
}

// Value returns a copy of value, which JSON was decoded to. p is the Plan of T.
func Value[T any](p Plan, value T) T {
	if p.copier == nil {
		return value
	}
	return copied(p, value) // apart, as value is on the heap there
}

func copied[T any](p Plan, value T) T {
	p.copier(reflect.ValueOf(&value).Elem())
	return value
}

// copiers are those of the types that were inspected: each once, however many types
// have it in them.
type copiers map[reflect.Type]*inspected

type inspected struct {
	copier copier
	ok     bool
	done   bool // or else it is being inspected, and refers to itself
}

// of reports whether values of t that JSON was decoded to can be copied, and how.
// It knows only what JSON makes: no two parts of a value are the same memory, and
// what is in an interface is what JSON has for any.
func (cs copiers) of(t reflect.Type) (copier, bool) {
	known := cs[t]
	switch {
	case known == nil:
		known = new(inspected)
		cs[t] = known
		known.copier, known.ok = cs.inspect(t)
		known.done = true
	case !known.done: // if it turns out that it cannot be copied, neither can what it is in
		return func(v reflect.Value) { known.copier(v) }, true
	}
	return known.copier, known.ok
}

func (cs copiers) inspect(t reflect.Type) (c copier, ok bool) {
	if t == reflect.TypeFor[time.Time]() {
		return nil, true // its location is never modified
	}
	var elem copier
	switch kind := t.Kind(); kind {
	case reflect.Slice:
		if elem, ok = cs.of(t.Elem()); ok {
			c = copySlice(t, elem)
		}
		if elem == nil {
			return c, ok // whoever decodes it: json.RawMessage
		}
	case reflect.Array:
		if elem, ok = cs.of(t.Elem()); ok && elem != nil {
			c = copyElements(elem)
		}
	case reflect.Map:
		key, okKey := cs.of(t.Key())
		if elem, ok = cs.of(t.Elem()); ok {
			c = copyMap(t, elem)
		}
		ok = ok && okKey && key == nil
	case reflect.Pointer:
		if elem, ok = cs.of(t.Elem()); ok {
			c = copyPointer(t, elem)
		}
	case reflect.Struct:
		c, ok = cs.ofStruct(t)
	case reflect.Interface:
		if ok = t.NumMethod() == 0; ok {
			c = func(v reflect.Value) {
				if !v.IsNil() {
					v.Set(reflect.ValueOf(copyAny(v.Interface())))
				}
			}
		}
	default:
		return nil, kind == reflect.String || reflect.Bool <= kind && kind <= reflect.Complex128
	}
	// A type that decodes itself may have anything inside. A pointer has the methods
	// of what it points to, which is judged by now.
	return c, ok && (c == nil || t.Kind() == reflect.Pointer || !jsonvalue.DecodesItself(t))
}

func (cs copiers) ofStruct(t reflect.Type) (c copier, ok bool) {
	type part struct {
		field int
		copy  copier
	}
	var parts []part
	for i := range t.NumField() {
		f := t.Field(i)
		fc, ok := cs.of(f.Type)
		if !ok || fc != nil && !f.IsExported() && (!f.Anonymous || f.Type.Kind() != reflect.Struct) {
			return nil, false // JSON does not set it, or only what is exported in it
		}
		if fc != nil {
			parts = append(parts, part{i, fc})
		}
	}
	if parts == nil {
		return nil, true
	}
	return func(v reflect.Value) {
		for _, p := range parts {
			p.copy(v.Field(p.field))
		}
	}, true
}

func copyElements(elem copier) copier {
	return func(v reflect.Value) {
		for i := range v.Len() {
			elem(v.Index(i))
		}
	}
}

func copySlice(t reflect.Type, elem copier) copier {
	return func(v reflect.Value) {
		if v.IsNil() {
			return
		}
		s := reflect.MakeSlice(t, v.Len(), v.Len())
		reflect.Copy(s, v)
		v.Set(s)
		if elem != nil {
			copyElements(elem)(s)
		}
	}
}

func copyMap(t reflect.Type, elem copier) copier {
	return func(v reflect.Value) {
		if v.IsNil() {
			return
		}
		m := reflect.MakeMapWithSize(t, v.Len())
		value := reflect.New(t.Elem()).Elem()
		for all := v.MapRange(); all.Next(); {
			value.SetIterValue(all)
			if elem != nil {
				elem(value)
			}
			m.SetMapIndex(all.Key(), value)
		}
		v.Set(m)
	}
}

func copyPointer(t reflect.Type, elem copier) copier {
	return func(v reflect.Value) {
		if v.IsNil() {
			return
		}
		p := reflect.New(t.Elem())
		p.Elem().Set(v.Elem())
		v.Set(p)
		if elem != nil {
			elem(p.Elem())
		}
	}
}

// copyAny copies what JSON was decoded to where nothing says its type.
func copyAny(value any) any {
	switch v := value.(type) {
	case []any:
		s := make([]any, len(v))
		for i := range v {
			s[i] = copyAny(v[i])
		}
		return s
	case map[string]any:
		m := make(map[string]any, len(v))
		for key := range v {
			m[key] = copyAny(v[key])
		}
		return m
	}
	return value // a string, a number, a bool or nil
}
