// Package clone copies values that were decoded from JSON, so that each caller of a cache can
// have a value of its own without decoding the JSON again. A copy of 50 messages takes a
// fiftieth of the time that decoding them takes.
//
// A copy equals the value that decoding the same JSON again would yield, and shares nothing
// with the original that a caller can modify. That the value comes from JSON is the reason why
// this can be fast and small: such a value is a tree, without cycles and without two
// references to the same memory.
//
// [Of] inspects a type once and finds whether its values can be copied. A type with a method
// that decodes it, with references in unexported fields, or with interfaces that have methods
// may refer to anything; it is refused, and its JSON is decoded for each caller.
package clone

import (
	"reflect"
	"sync"
	"time"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

// Plan has the way to copy values of one type. The zero Plan is for types without references,
// which an assignment copies.
type Plan struct{ copier copier }

// copier completes a copy: v was assigned from another value, and afterwards shares nothing
// with it that can be modified. A nil copier is for types where an assignment is enough.
type copier func(v reflect.Value)

// planned is a result of [Of].
type planned struct {
	plan Plan
	ok   bool
}

// plans has the results of Of: planned by reflect.Type.
var plans sync.Map

// Of returns the Plan for copies of a T that was decoded from JSON. ok is false if they cannot
// be copied. Only the first call for a type inspects it.
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

// Value returns a copy of value, which must be decoded from JSON. p is the Plan of T. Calls
// with the same value may run concurrently.
func Value[T any](p Plan, value T) T {
	if p.copier == nil {
		return value
	}
	return copied(p, value)
}

// copied is the rest of Value. It is apart because value is on the heap here, which costs an
// allocation that types without references do not need.
func copied[T any](p Plan, value T) T {
	p.copier(reflect.ValueOf(&value).Elem())
	return value
}

// copiers has the types that were inspected on the way through one. Each is inspected once,
// however many others contain it.
type copiers map[reflect.Type]*inspected

// inspected is a type whose inspection has begun.
type inspected struct {
	copier copier
	ok     bool
	done   bool // false while it is inspected: met again, the type refers to itself
}

// of returns the copier for values of t, and whether they can be copied. It relies on values
// from JSON: no two parts of one are the same memory, and an interface holds one of the few
// types that encoding/json decodes to.
func (cs copiers) of(t reflect.Type) (copier, bool) {
	known := cs[t]
	switch {
	case known == nil:
		known = new(inspected)
		cs[t] = known
		known.copier, known.ok = cs.inspect(t)
		known.done = true
	case !known.done: // if t turns out to be refused, so is the type that contains it
		return func(v reflect.Value) { known.copier(v) }, true
	}
	return known.copier, known.ok
}

// inspect is of for a type that was not met before.
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
			return c, ok // also if a method decodes it, as for json.RawMessage
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
	// A type with a method that decodes it may refer to anything. A pointer has the methods
	// of its element, which was judged by now.
	return c, ok && (c == nil || t.Kind() == reflect.Pointer || !jsonvalue.DecodesItself(t))
}

// ofStruct is inspect for a struct. It refuses references in unexported fields, which only a
// method can have set, but goes into embedded structs, as encoding/json does.
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
			return nil, false // it did not come from the JSON
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

// copyElements makes the copier of an array, or of the elements of a slice.
func copyElements(elem copier) copier {
	return func(v reflect.Value) {
		for i := range v.Len() {
			elem(v.Index(i))
		}
	}
}

// copySlice makes the copier of a slice. A nil slice stays nil, which JSON tells from an empty
// one, and the copy has no spare capacity.
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

// copyMap makes the copier of a map. Elements of a map cannot be modified in place, so each is
// copied outside. Keys have no references, or inspect has refused the type.
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

// copyPointer makes the copier of a pointer, which copies its target.
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

// copyAny copies a value that JSON was decoded to as an any.
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
