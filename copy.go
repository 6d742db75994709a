package aside

import (
	"reflect"
	"sync"
	"time"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

// copier makes what it is handed, an assigned copy of a value, share nothing that
// can be modified with the value. It is nil for types whose assignment does that.
type copier func(v reflect.Value)

// copyable is what is known of a type: whether its values can be copied, so that
// each is equal to what the same JSON would be decoded to once more.
type copyable struct {
	copier copier
	ok     bool
}

var copyables sync.Map // reflect.Type: copyable

// copyableOf reports how a T that JSON was decoded to is copied. A copy of 50
// messages takes a fiftieth of the time in which their JSON is decoded.
func copyableOf[T any]() copyable {
	t := reflect.TypeFor[T]()
	if c, ok := copyables.Load(t); ok {
		return c.(copyable)
	}
	var c copyable
	c.copier, c.ok = copiers{}.of(t)
	copyables.Store(t, c)
	return c
}

// copyOf returns a copy of a value whose type can be copied.
func copyOf[T any](c copyable, value T) T {
	if c.copier != nil {
		c.copier(reflect.ValueOf(&value).Elem())
	}
	return value
}

// copiers are those of the types that were looked at: each once, however many types
// have it in them.
type copiers map[reflect.Type]*looked

type looked struct {
	copyable
	done bool // or else it is being looked at, and refers to itself
}

// of reports whether values of t that JSON was decoded to can be copied, and how.
// It knows only what JSON makes: no two parts of a value are the same memory, and
// what is in an interface is what JSON has for any.
func (cs copiers) of(t reflect.Type) (copier, bool) {
	l := cs[t]
	switch {
	case l == nil:
		l = new(looked)
		cs[t] = l
		l.copier, l.ok = cs.look(t)
		l.done = true
	case !l.done: // if it turns out that it can not be copied, neither can what it is in
		return func(v reflect.Value) { l.copier(v) }, true
	}
	return l.copier, l.ok
}

func (cs copiers) look(t reflect.Type) (c copier, ok bool) {
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
