// Package size estimates how much memory a decoded value takes, so that a cache that keeps
// decoded values can count them towards its bound. The length of the JSON would not do: a
// list of small objects takes more memory than its text.
//
// An estimate ([Of]) walks through the value along its references and adds up allocations,
// each rounded up to the size that Go allocates ([Allocated]). It is right within a factor of
// two, and costs a small part of the time in which the value was decoded: a type is inspected
// once, and yields a function that needs reflection only for maps and interfaces.
//
// A type with methods that decode it, or with references in unexported fields, may hide
// memory. The estimate for such a value is at least a multiple of the bytes that were decoded
// to it.
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

// Of estimates how many bytes value takes, itself included. data is the text that value was
// decoded from. If value takes more than room, Of stops early and returns a number above room.
//
// json says that data is JSON. No two parts of a value decoded from JSON are the same memory,
// so the parts that were counted need not be noted; for any other value they are, and it may
// refer to itself. value must not be modified meanwhile.
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

// sizing is one estimate under way.
type sizing struct {
	bytes  int                     // counted so far
	room   int                     // the estimate stops above it
	depth  int                     // of references followed
	seen   map[unsafe.Pointer]bool // the references followed; nil for a value from JSON
	opaque bool                    // a part hides its references
}

// sizer adds the memory that the value at p refers to. The memory of the value itself is part
// of the allocation that it lies in, and counted with that. A nil sizer is for types without
// references.
type sizer func(w *sizing, p unsafe.Pointer)

// sizable has the findings on a type.
type sizable struct {
	sizer  sizer
	opaque bool // its values hide references
}

// maxSizingDepth is how many references in a row are followed: ten times as many as JSON has
// levels. A deeper value counts as too large.
const maxSizingDepth = 100_000

// guess returns how much memory data is commonly decoded to, for types that do not tell. For
// JSON it adds to the bytes of data 32 for each member and 96 for each object.
func guess(data []byte, json bool) int {
	if !json {
		return 3 * len(data)
	}
	count := func(sep string) int { return bytes.Count(data, []byte(sep)) }
	return len(data) + 32*(count(",")+count(":")) + 96*count("{")
}

// add adds an allocation of n bytes.
func (w *sizing) add(n int) { w.bytes += Allocated(n) }

// Allocated returns how many bytes Go allocates for n. Its size classes are a little irregular;
// this rounds up to steps of 8 bytes, of 16 above 32, and of about an eighth above 256.
func Allocated(n int) int {
	step := 8
	if n > 256 {
		step = 1 << (bits.Len(uint(n-1)) - 4)
	} else if n > 32 {
		step = 16
	}
	return (n + step - 1) &^ (step - 1)
}

// enter reports whether to follow the reference p: there is room left, and p is new. If so, the
// caller must decrement w.depth afterwards.
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

// of adds the memory that the t at p refers to.
func (w *sizing) of(t reflect.Type, p unsafe.Pointer) {
	s := sizableOf(t)
	w.opaque = w.opaque || s.opaque
	if s.sizer != nil {
		s.sizer(w, p)
	}
}

// sizables has the findings on each type that was met: sizable by reflect.Type.
var sizables sync.Map

// sizableOf returns the findings on t, which it inspects once.
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

// sizers has the sizers of one type and of the types in it, while they are made.
type sizers struct {
	known  map[reflect.Type]*sized
	opaque bool // one of the types hides references
}

// sized is a type whose inspection has begun.
type sized struct {
	sizer sizer
	done  bool // false while it is inspected: met again, the type refers to itself
}

// of returns the sizer of t. For a type that refers to itself it returns a function that
// calls the sizer, which is not made yet.
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

// inspect makes the sizer of t.
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
			// JSON does not set the field, so a method did, if anything.
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

// hidden makes the sizer of a type whose values a method decodes, or of an unexported field.
// It counts the memory of strings and of slices. Memory behind other references is not
// counted: it may belong to another value, as a *time.Location does, or be in use by other
// goroutines.
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

// ofStruct makes the sizer of a struct from those that of makes for its fields. It is nil if
// no field has references.
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

// sizeArray makes the sizer of an array, which is part of another allocation, so only its elements add memory.
func sizeArray(t reflect.Type, elem sizer) sizer {
	if elem == nil {
		return nil
	}
	return func(w *sizing, p unsafe.Pointer) { w.each(p, t.Len(), t.Elem().Size(), elem) }
}

// each adds the memory that n elements at p refer to.
func (w *sizing) each(p unsafe.Pointer, n int, size uintptr, elem sizer) {
	for i := 0; i < n && w.bytes <= w.room; i++ {
		elem(w, unsafe.Add(p, uintptr(i)*size))
	}
}

// sizeSlice makes the sizer of a slice. The array behind it counts with its capacity, and the
// elements up to its length.
func sizeSlice(t reflect.Type, elem sizer) sizer {
	size := t.Elem().Size()
	return func(w *sizing, p unsafe.Pointer) {
		s := *(*[]struct{})(p) // all slices have the same header
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

// sizePointer makes the sizer of a pointer.
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

// sizeMap makes the sizer of a map. Keys and elements have no address, so each is copied to one
// place for all, if their types have references.
func sizeMap(t reflect.Type, key, elem sizer) sizer {
	slot := inSlot(t.Key()) + inSlot(t.Elem())
	apart := Allocated(int(t.Key().Size())+int(t.Elem().Size())) - slot // for a key or an element outside the slot
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

// inSlot returns how many bytes of a map's slot a key or an element takes. One of more than 128
// bytes lies outside, and the slot has a pointer to it.
func inSlot(t reflect.Type) int {
	if t.Size() > 128 {
		return 8
	}
	return int(t.Size()+7) &^ 7
}

// addMap adds a map that has grown to n entries, with slots of so many bytes. Go's maps have
// groups of 8 slots, one group up to 8 entries. Larger ones have tables that double in size
// and are at most seven eighths full.
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

// any adds the memory of a value in an interface. The types that decoding JSON makes come first,
// without reflection.
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

// boxed adds the memory of a value in an interface, itself included, as an interface refers to
// a copy of it.
func (w *sizing) boxed(v reflect.Value) {
	if !v.IsValid() {
		return
	}
	t := v.Type()
	switch t.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Chan, reflect.Func, reflect.UnsafePointer: // these are in the interface itself
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

// sizeZone is the sizer of time.Time. Decoding makes a location for each time with an offset
// from UTC that is not a whole number of hours; those with whole hours share theirs, and UTC
// and Local need none.
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
