// Package size estimates how much memory a decoded value takes, so that a cache can count it
// towards its bound.
//
// An estimate follows the value's type and what it refers to, and adds up allocations as
// large as Go makes them. It is right within a factor of two, and costs a small part of
// decoding the value. A type that hides what it refers to is estimated by the bytes that
// were decoded to it.
package size

import (
	"bytes"
	"math/bits"
	"reflect"
	"sync"
	"time"
	"unsafe"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

// Of returns about how many bytes a value takes that data was decoded to, itself included,
// or a number above room when they are more than that. json says that the data is JSON,
// which makes no value that has the same memory twice or refers to itself. The value must
// not be modified meanwhile.
func Of[T any](value *T, data []byte, json bool, room int) int {
	t := reflect.TypeFor[T]()
	w := sizing{room: room}
	if !json {
		w.seen = make(map[unsafe.Pointer]bool)
	}
	w.add(int(t.Size()))
	w.of(t, unsafe.Pointer(value))
	if w.opaque {
		return max(w.bytes, guess(data, json))
	}
	return w.bytes
}

// sizing adds up the memory that a decoded value takes. It stops when that is more
// than there is room for.
type sizing struct {
	bytes int
	room  int
	depth int
	// seen are the parts that are counted, where several may be the same memory. JSON
	// makes no such values, and for them it is nil.
	seen map[unsafe.Pointer]bool
	// opaque says that a part hides what it refers to.
	opaque bool
}

// sizer adds what the value at p refers to; the memory of the value itself is counted
// where it is. It is nil for types that refer to nothing.
type sizer func(w *sizing, p unsafe.Pointer)

// sizable is what is known of a type: how its values are added up, and whether some
// of what they refer to is not.
type sizable struct {
	sizer  sizer
	opaque bool
}

// maxSizingDepth is how deep a value is followed: ten times as deep as JSON goes. A
// deeper one counts as too large.
const maxSizingDepth = 100_000

// guess returns what data is commonly decoded to, where the type does not tell: a
// multiple of the bytes, and for JSON something for each object, and for each member
// of an array or an object.
func guess(data []byte, json bool) int {
	if !json {
		return 3 * len(data)
	}
	count := func(sep string) int { return bytes.Count(data, []byte(sep)) }
	return len(data) + 32*(count(",")+count(":")) + 96*count("{")
}

// add adds an allocation of n bytes.
func (w *sizing) add(n int) { w.bytes += Allocated(n) }

// Allocated returns how many bytes Go allocates for n: sizes go in steps of 8, then 16
// bytes, and then of about an eighth.
func Allocated(n int) int {
	step := 8
	if n > 256 {
		step = 1 << (bits.Len(uint(n-1)) - 4)
	} else if n > 32 {
		step = 16
	}
	return (n + step - 1) &^ (step - 1)
}

// enter reports whether to follow the reference p: there is room, and p is new.
// What follows is to end with w.depth--.
func (w *sizing) enter(p unsafe.Pointer) bool {
	if w.bytes > w.room {
		return false
	}
	if w.depth == maxSizingDepth {
		w.bytes = w.room + 1
		return false
	}
	if w.seen != nil {
		if w.seen[p] {
			return false
		}
		w.seen[p] = true
	}
	w.depth++
	return true
}

func (w *sizing) of(t reflect.Type, p unsafe.Pointer) {
	s := sizableOf(t)
	w.opaque = w.opaque || s.opaque
	if s.sizer != nil {
		s.sizer(w, p)
	}
}

var sizables sync.Map // reflect.Type: sizable

func sizableOf(t reflect.Type) sizable {
	if s, ok := sizables.Load(t); ok {
		return s.(sizable)
	}
	var s sizable
	sizers := sizers{known: make(map[reflect.Type]*sized)}
	s.sizer = sizers.of(t)
	s.opaque = sizers.opaque
	sizables.Store(t, s)
	return s
}

// sizers are those of the types that one type has in it, itself included.
type sizers struct {
	known  map[reflect.Type]*sized
	opaque bool // one of them hides what it refers to
}

type sized struct {
	sizer sizer
	done  bool // or else the type is being inspected, and refers to itself
}

func (ss *sizers) of(t reflect.Type) sizer {
	s := ss.known[t]
	switch {
	case s == nil:
		s = new(sized)
		ss.known[t] = s
		s.sizer = ss.inspect(t)
		s.done = true
	case !s.done:
		return func(w *sizing, p unsafe.Pointer) { s.sizer(w, p) } // it is not nil, as t refers to t
	}
	return s.sizer
}

func (ss *sizers) inspect(t reflect.Type) sizer {
	if t == reflect.TypeFor[time.Time]() {
		return sizeZone
	}
	kind := t.Kind()
	if kind != reflect.Pointer && kind != reflect.Interface && jsonvalue.DecodesItself(t) {
		return ss.hidden(t)
	}
	switch kind {
	case reflect.Slice:
		return sizeSlice(t, ss.of(t.Elem()))
	case reflect.Array:
		return sizeArray(t, ss.of(t.Elem()))
	case reflect.Map:
		if t == reflect.TypeFor[map[string]any]() {
			return func(w *sizing, p unsafe.Pointer) { w.any(*(*map[string]any)(p)) }
		}
		return sizeMap(t, ss.of(t.Key()), ss.of(t.Elem()))
	case reflect.Pointer:
		return sizePointer(t, ss.of(t.Elem()))
	case reflect.Struct:
		return ss.ofStruct(t, func(f reflect.StructField) sizer {
			if f.IsExported() || f.Anonymous && f.Type.Kind() == reflect.Struct {
				return ss.of(f.Type)
			}
			return ss.hidden(f.Type)
		})
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return func(w *sizing, p unsafe.Pointer) { w.any(*(*any)(p)) }
		}
		return func(w *sizing, p unsafe.Pointer) { w.boxed(reflect.NewAt(t, p).Elem().Elem()) }
	}
	return ss.hidden(t)
}

// hidden is of what a type keeps to itself: only what a string or a slice refers to
// is counted. What is behind other references may be anybody's, and is not counted.
func (ss *sizers) hidden(t reflect.Type) sizer {
	switch kind := t.Kind(); {
	case kind == reflect.String:
		return func(w *sizing, p unsafe.Pointer) { w.add(len(*(*string)(p))) }
	case kind == reflect.Slice:
		ss.opaque = ss.opaque || refers(t.Elem())
		return sizeSlice(t, nil)
	case kind == reflect.Array:
		return sizeArray(t, ss.hidden(t.Elem()))
	case kind == reflect.Struct:
		return ss.ofStruct(t, func(f reflect.StructField) sizer { return ss.hidden(f.Type) })
	}
	ss.opaque = ss.opaque || refers(t)
	return nil
}

// refers reports whether values of t refer to other memory.
func refers(t reflect.Type) bool {
	switch kind := t.Kind(); kind {
	case reflect.Array:
		return refers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if refers(t.Field(i).Type) {
				return true
			}
		}
		return false
	default:
		return kind < reflect.Bool || kind > reflect.Complex128
	}
}

func (ss *sizers) ofStruct(t reflect.Type, of func(reflect.StructField) sizer) sizer {
	type part struct {
		offset uintptr
		size   sizer
	}
	var parts []part
	for i := range t.NumField() {
		if f := t.Field(i); f.Type.Size() > 0 {
			if s := of(f); s != nil {
				parts = append(parts, part{f.Offset, s})
			}
		}
	}
	if parts == nil {
		return nil
	}
	return func(w *sizing, p unsafe.Pointer) {
		for _, part := range parts {
			part.size(w, unsafe.Add(p, part.offset))
		}
	}
}

func sizeArray(t reflect.Type, elem sizer) sizer {
	if elem == nil {
		return nil
	}
	return func(w *sizing, p unsafe.Pointer) { w.each(p, t.Len(), t.Elem().Size(), elem) }
}

func (w *sizing) each(p unsafe.Pointer, n int, size uintptr, elem sizer) {
	for i := 0; i < n && w.bytes <= w.room; i++ {
		elem(w, unsafe.Add(p, uintptr(i)*size))
	}
}

func sizeSlice(t reflect.Type, elem sizer) sizer {
	size := t.Elem().Size()
	return func(w *sizing, p unsafe.Pointer) {
		s := *(*[]struct{})(p) // a slice's header is that of any other
		first := unsafe.Pointer(unsafe.SliceData(s))
		if cap(s) == 0 || size == 0 || !w.enter(first) {
			return
		}
		w.add(cap(s) * int(size))
		if elem != nil {
			w.each(first, len(s), size, elem)
		}
		w.depth--
	}
}

func sizePointer(t reflect.Type, elem sizer) sizer {
	size := int(t.Elem().Size())
	return func(w *sizing, p unsafe.Pointer) {
		to := *(*unsafe.Pointer)(p)
		if to == nil || size == 0 || !w.enter(to) {
			return
		}
		w.add(size)
		if elem != nil {
			elem(w, to)
		}
		w.depth--
	}
}

func sizeMap(t reflect.Type, key, elem sizer) sizer {
	slot := inSlot(t.Key()) + inSlot(t.Elem())
	apart := Allocated(int(t.Key().Size())+int(t.Elem().Size())) - slot // of entries that are too large for a slot
	return func(w *sizing, p unsafe.Pointer) {
		m := reflect.NewAt(t, p).Elem()
		if m.IsNil() || !w.enter(m.UnsafePointer()) {
			return
		}
		w.addMap(m.Len(), slot)
		if apart > 0 {
			w.bytes += apart * m.Len()
		}
		if key != nil || elem != nil {
			k, e := reflect.New(t.Key()), reflect.New(t.Elem())
			for all := m.MapRange(); w.bytes <= w.room && all.Next(); {
				if key != nil {
					k.Elem().SetIterKey(all)
					key(w, k.UnsafePointer())
				}
				if elem != nil {
					e.Elem().SetIterValue(all)
					elem(w, e.UnsafePointer())
				}
			}
		}
		w.depth--
	}
}

// inSlot is what a map's slot has of a key or an element: a pointer to large ones.
func inSlot(t reflect.Type) int {
	if t.Size() > 128 {
		return 8
	}
	return int(t.Size()+7) &^ 7
}

// addMap adds a map that has grown to n entries: groups of 8 slots, of which at most
// seven eighths are full, in tables that double.
func (w *sizing) addMap(n, slot int) {
	const header, table = 48, 32
	w.add(header)
	switch {
	case n == 0:
	case n <= 8:
		w.add(8 + 8*slot)
	default:
		slots := 1 << bits.Len(uint(n*8+6)/7-1)
		w.bytes += table + slots*(slot+1)
	}
}

// any is sizer of what is in an any. What JSON makes has no need of reflection.
func (w *sizing) any(value any) {
	switch v := value.(type) {
	case nil, bool:
	case string:
		w.add(int(unsafe.Sizeof(v)))
		w.add(len(v))
	case float64:
		w.add(int(unsafe.Sizeof(v)))
	case []any:
		w.add(int(unsafe.Sizeof(v)))
		if cap(v) == 0 || !w.enter(unsafe.Pointer(unsafe.SliceData(v))) {
			return
		}
		w.add(cap(v) * int(unsafe.Sizeof(value)))
		for i := 0; i < len(v) && w.bytes <= w.room; i++ {
			w.any(v[i])
		}
		w.depth--
	case map[string]any:
		if v == nil || !w.enter(reflect.ValueOf(v).UnsafePointer()) {
			return
		}
		w.addMap(len(v), int(unsafe.Sizeof("")+unsafe.Sizeof(value)))
		for key, elem := range v {
			w.add(len(key))
			w.any(elem)
			if w.bytes > w.room {
				break
			}
		}
		w.depth--
	default:
		w.boxed(reflect.ValueOf(value))
	}
}

// boxed is sizer of what is in an interface.
func (w *sizing) boxed(v reflect.Value) {
	if !v.IsValid() {
		return
	}
	t := v.Type()
	switch t.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Chan, reflect.Func, reflect.UnsafePointer: // the interface has it itself
	default:
		w.add(int(t.Size()))
	}
	if w.bytes > w.room {
		return
	}
	p := reflect.New(t)
	p.Elem().Set(v)
	w.of(t, p.UnsafePointer())
}

// sizeZone is sizer of a time.Time. Go makes a zone for each time that is not a whole
// number of hours away from UTC.
func sizeZone(w *sizing, p unsafe.Pointer) {
	const zone = 192
	t := *(*time.Time)(p)
	if at := t.Location(); at == time.UTC || at == time.Local {
		return
	}
	if _, offset := t.Zone(); offset%3600 != 0 {
		w.bytes += zone
	}
}
