// Package jsonvalue encodes and decodes values as encoding/json does, and refuses each value
// that would not survive both. It is the codec of a cache, where a value that comes back
// changed is worse than one that is not stored. A reader of the cache would act on it.
//
// encoding/json loses parts of some values without an error: bytes that are not UTF-8, a
// pointer to a nil, the parts of a type with methods that encode it and none that decode
// it. [Encode] knows by its type whether a value may have such parts, and only then decodes
// the JSON once and compares. To compare always would be simpler, but each encoding would
// then cost a decoding, also for the many types that lose nothing.
//
// [Decode] uses the decoder of json/v2, which takes half the time, for types to which both
// packages give one meaning. Errors say where the JSON is wrong and show nothing of the
// value, as they are logged and a value may hold secrets.
//
// An inspection of a type, by reflection, finds out all of this once (types.go). It is
// cautious: a type that it wrongly doubts costs time, a type that it wrongly trusts costs
// data.
package jsonvalue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"time"
	"unicode/utf8"
	"unsafe"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"
)

// likeV1 makes the decoder of json/v2 accept the JSON that encoding/json accepts, but for
// duplicate names and invalid UTF-8, which the two treat in different ways. Decode has
// encoding/json decide on those.
var likeV1 = jsonv2.JoinOptions(jsonv1.DefaultOptionsV1(), jsonv1.ReportErrorsWithLegacySemantics(false),
	jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))

var errNotUTF8 = errors.New("aside: want JSON in UTF-8")

// Decode decodes data into the value that ptr points to, with the result of json.Unmarshal.
// The value must be zero, and data must be UTF-8: encoding/json would replace invalid bytes
// without an error.
//
// Its errors show nothing of data, and wrap no error that does. After an error the value may
// be set in part.
func Decode(data []byte, ptr any) error {
	p := reflect.ValueOf(ptr)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return json.Unmarshal(data, ptr) // returns the error for such a ptr
	}
	if infoOf(p.Type().Elem()).v2 {
		if jsonv2.Unmarshal(data, ptr, likeV1) == nil {
			return nil
		}
		p.Elem().SetZero() // json/v2 may have set a part
	}
	if !utf8.Valid(data) {
		return errNotUTF8
	}
	if err := json.Unmarshal(data, ptr); err != nil {
		return located(err, data, p.Type().Elem())
	}
	return nil
}

// Encode returns the JSON of value, as json.Marshal does, or an error if Decode would make
// another value of it. A value is in doubt by its type, by an invalid rune in a text, or by a
// null in its JSON. Encode decodes the JSON of such a value once and compares.
//
// Some losses are accepted, as all programs that use encoding/json live with them: fields
// without a place in the JSON, the monotonic reading and the location of a time, an empty
// slice that is omitted, and the type of a value in an interface. A number in an interface
// comes back as a float64, and is refused if a float64 does not hold it.
func Encode(value any) ([]byte, error) { return encode(value, false) }

// EncodeHeld is Encode for a value that a reader decodes into an interface. Numbers in value,
// and value itself if it is one, count as numbers in an interface.
func EncodeHeld(value any) ([]byte, error) { return encode(value, true) }

// encode is Encode, and with held EncodeHeld.
func encode(value any, held bool) ([]byte, error) {
	if value == nil {
		return json.Marshal(nil)
	}
	v := addressable(reflect.ValueOf(value))
	t := infoOf(v.Type())
	data, err := json.Marshal(v.Addr().Interface())
	if err != nil {
		return nil, unencodable(err, value)
	}
	doubt, raw := t.doubt, t.raw
	if t.dynamic { // values in interfaces have types that t does not tell
		s := search{doubt: doubt, raw: raw, left: 4*len(data) + 64}
		s.in(v)
		doubt, raw = s.doubt, s.raw
	}
	if raw && !utf8.Valid(data) {
		return nil, errNotUTF8
	}
	if want := inexact(v, held, data); want != "" {
		return nil, fmt.Errorf("aside: want %s of a %T", want, value)
	}
	lossy := bytes.Count(data, replaced) // stand for invalid UTF-8, as U+FFFD itself is not escaped
	switch {
	case doubt == uncalled:
		return nil, fmt.Errorf("aside: want MarshalJSON and UnmarshalJSON in the parts of a %T that have MarshalJSONTo or UnmarshalJSONFrom, which encoding/json does not call", value)
	case lossy == 0 && (doubt == none || doubt == atNull && !bytes.Contains(data, null)):
		return data, nil
	}
	// A value that readers could not decode would be a miss for each of them, so it is an
	// error here, once, for the writer.
	back := reflect.New(v.Type())
	if err := Decode(data, back.Interface()); err != nil {
		return nil, fmt.Errorf("aside: a %T does not decode from its own JSON: %w", value, err)
	}
	// Encoded again, the rune that stands for invalid UTF-8 is no longer escaped. The escapes of
	// methods and of raw messages still are.
	if lossy > 0 {
		if again, err := json.Marshal(back.Interface()); err != nil || bytes.Count(again, replaced) != lossy {
			return nil, fmt.Errorf("aside: want text in UTF-8 in a %T", value)
		}
	}
	c := comparison{all: doubt == always, bytes: 64*len(data) + 1<<16}
	if doubt != none && !c.same(v, back.Elem()) {
		return nil, fmt.Errorf("aside: a %T decodes to another value from its own JSON", value)
	}
	return data, nil
}

// unencodable returns an error that says why encoding/json does not encode value. It keeps
// the types of err and value, and leaves out err's text, which may quote the value.
func unencodable(err error, value any) error {
	switch e := err.(type) { // errors that it wraps are from methods
	case *json.MarshalerError:
		return fmt.Errorf("aside: an encoding method of a %v fails with a %T", e.Type, e.Err)
	case *json.UnsupportedTypeError:
		return fmt.Errorf("aside: a %v in a %T has no JSON", e.Type, value)
	case *json.UnsupportedValueError:
		if e.Value.CanFloat() {
			return fmt.Errorf("aside: a %v in a %T has no JSON", e.Value.Float(), value) // NaN, or infinite
		}
		return fmt.Errorf("aside: a cycle in a %T has no JSON", value)
	}
	return fmt.Errorf("aside: a part of a %T does not encode, with a %T", value, err)
}

var (
	null     = []byte("null")
	replaced = []byte(`\ufffd`)
)

// addressable returns an addressable shallow copy of v. Without an address
// encoding/json would not call methods of a pointer to v when it encodes, and would call
// them when it decodes.
func addressable(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}

// search walks through the values that interfaces hold, of types that the inspection of the
// outer type does not know. It finds how far they are to be doubted, and whether a method
// writes the JSON of one.
//
// It takes a limited number of steps. encoding/json writes at least a byte for nearly each,
// so if they do not suffice, the JSON leaves out parts of the value, which may lead back to
// themselves. The search then gives up and doubts everything.
type search struct {
	doubt doubt // the worst so far
	raw   bool  // a method writes JSON
	left  int   // steps
}

// note adds a finding.
func (s *search) note(d doubt, raw bool) { s.doubt, s.raw = max(s.doubt, d), s.raw || raw }

// step reports whether the search goes on.
func (s *search) step() bool {
	if s.left--; s.left < 0 {
		s.note(always, true)
	}
	return s.left >= 0
}

// in searches a value. It leaves out the parts of a value that a method encodes: they have
// no JSON of their own, and such a value is doubted by its type.
func (s *search) in(v reflect.Value) {
	switch v.Kind() {
	case reflect.Interface:
		if !v.IsNil() {
			s.held(v.Interface())
		}
	case reflect.Pointer:
		if !v.IsNil() && s.step() {
			s.in(v.Elem())
		}
	case reflect.Struct:
		if known := infoOf(v.Type()); known.by.encodes == "" {
			for _, i := range known.dynamicFields {
				s.in(v.Field(i))
			}
		}
	case reflect.Slice, reflect.Array:
		for i := 0; i < v.Len() && !encodesItself(v.Type()) && s.step(); i++ {
			s.in(v.Index(i))
		}
	case reflect.Map:
		if m, ok := v.Interface().(map[string]any); ok {
			s.held(m)
			return
		}
		for all := v.MapRange(); !encodesItself(v.Type()) && all.Next() && s.step(); {
			s.in(all.Value())
		}
	}
}

// encodesItself reports whether a method encodes values of t. It is quick for predeclared and
// unnamed types, which have no methods and are the most common.
func encodesItself(t reflect.Type) bool { return t.PkgPath() != "" && infoOf(t).by.encodes != "" }

// held searches a value that an interface holds. The types that decoding makes come first,
// without reflection: most values that are stored again were decoded before.
func (s *search) held(value any) {
	if !s.step() {
		return
	}
	switch v := value.(type) {
	case nil, string, float64, bool, int, int64, json.Number:
	case []any:
		for i := range v {
			s.held(v[i])
		}
	case map[string]any:
		for _, e := range v {
			s.held(e)
		}
	default:
		t := infoOf(reflect.TypeOf(value))
		s.note(t.held, t.raw)
		if t.dynamic {
			s.in(reflect.ValueOf(value))
		}
	}
}

// comparison compares a value with the one decoded from its JSON. Both may have cycles, if
// methods leave the references out of the JSON and restore them, so it bounds its depth and
// the bytes that it encodes, and notes the references that it has compared.
type comparison struct {
	all   bool          // compare every part, not only those in doubt
	depth int           // of calls of same in each other
	bytes int           // that may still be encoded, of values in interfaces
	steps int           // taken so far
	seen  map[pair]bool // the references that were compared; nil for the first steps
}

// pair is two references of one type that are or were compared. A slice has its length, as
// slices of one array differ in it.
type pair struct {
	v, w unsafe.Pointer
	len  int
	t    reflect.Type
}

const (
	maxDepth   = 50_000 // encoding/json decodes at most 10,000 nested objects and arrays
	quickSteps = 1_000  // most values are compared in fewer, and need no map of references
)

// met reports whether the references v and w have been compared before. They then count as
// the same: if they are not, the comparison of them finds that. A value in an interface is
// noted as a pair with itself.
func (c *comparison) met(v, w reflect.Value) bool {
	if c.steps++; c.steps < quickSteps {
		return false
	}
	p := pair{t: v.Type()}
	switch v.Kind() {
	case reflect.Slice:
		p.len = v.Len()
	case reflect.Pointer, reflect.Map:
	default:
		return false
	}
	p.v, p.w = v.UnsafePointer(), w.UnsafePointer()
	if c.seen[p] {
		return true
	}
	if c.seen == nil {
		c.seen = make(map[pair]bool)
	}
	c.seen[p] = true
	return false
}

// same reports whether w, which was decoded from v's JSON, equals v apart from the losses that
// Encode accepts. It may err only by reporting false, which makes Encode refuse a good value.
// Unless c.all is set, it skips the parts of types that are not in doubt.
func (c *comparison) same(v, w reflect.Value) bool {
	if c.depth++; c.depth > maxDepth {
		return false
	}
	defer func() { c.depth-- }()
	t := v.Type()
	known := infoOf(t)
	if !c.all && known.doubt == none && known.held == none && !known.dynamic {
		return true
	}
	if c.met(v, w) {
		return true
	}
	switch {
	case t.Kind() == reflect.Pointer:
		return v.IsNil() == w.IsNil() && (v.IsNil() || c.same(v.Elem(), w.Elem()))
	case t.Kind() == reflect.Interface:
		return v.IsNil() == w.IsNil() && (v.IsNil() || c.sameHeld(v.Elem()))
	case t == timeType: // its monotonic reading and location may be lost
		return v.Interface().(time.Time).Equal(w.Interface().(time.Time))
	case t == floatType: // its text has neither precision nor rounding mode
		f, g := addressable(v).Addr().Interface().(*big.Float), addressable(w).Addr().Interface().(*big.Float)
		return f.Cmp(g) == 0 && f.Prec() == g.Prec() && f.Mode() == g.Mode()
	case known.by.encodes != "":
		one, err := json.Marshal(addressable(v).Addr().Interface())
		if err != nil {
			return false
		}
		two, err := json.Marshal(addressable(w).Addr().Interface())
		if err != nil || !bytes.Equal(one, two) {
			return false
		}
		if known.by.encodes == known.by.decodes && !embedsMethods(t) {
			return true
		}
	}
	return c.sameParts(v, w)
}

// sameParts compares the parts of v and w. It also does so for values that methods encode, if
// their text may leave parts out.
func (c *comparison) sameParts(v, w reflect.Value) bool {
	switch v.Kind() {
	case reflect.Struct:
		return c.sameFields(v, w)
	case reflect.Slice, reflect.Array:
		if v.Len() != w.Len() {
			return false
		}
		for i := range v.Len() {
			if !c.same(v.Index(i), w.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if v.Len() != w.Len() {
			return false
		}
		for each := v.MapRange(); each.Next(); {
			if other := w.MapIndex(each.Key()); !other.IsValid() || !c.same(each.Value(), other) {
				return false
			}
		}
		return true
	case reflect.Func:
		return v.IsNil() == w.IsNil()
	case reflect.String: // encoding/json writes an empty json.Number as 0
		return v.String() == w.String() || v.Type() == numberType && v.Len() == 0 && w.String() == "0"
	}
	return v.Equal(w)
}

// sameFields compares the fields that have a place in the JSON of a struct, and no others.
func (c *comparison) sameFields(v, w reflect.Value) bool {
	for _, f := range infoOf(v.Type()).fields {
		one, err := v.FieldByIndexErr(f.Index)
		if err != nil {
			continue // the embedded pointer that leads to f is nil, and is compared as a field
		}
		two, err := w.FieldByIndexErr(f.Index)
		if err != nil {
			return false
		}
		if flattened(f) {
			if one.IsNil() != two.IsNil() {
				return false
			}
		} else if !c.same(one, two) {
			return false
		}
	}
	return true
}

// sameHeld reports whether v, which an interface holds, survives being encoded and decoded as
// its own type. The reader gets a map or another type of JSON's in its place, so the two
// cannot be compared; but if v loses a part even as its own type, that part is not in the
// JSON either.
func (c *comparison) sameHeld(v reflect.Value) bool {
	if c.met(v, v) {
		return true
	}
	data, err := json.Marshal(v.Interface())
	if c.bytes -= len(data) + 16; err != nil || c.bytes < 0 {
		return false
	}
	back := reflect.New(v.Type())
	return json.Unmarshal(data, back.Interface()) == nil && c.same(v, back.Elem())
}
