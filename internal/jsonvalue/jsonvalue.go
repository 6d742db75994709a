// Package jsonvalue encodes values as encoding/json does and decodes them as it does, and
// refuses each value that would not survive that. A value is either encoded to JSON that
// says the same value to its readers, or not at all.
//
// encoding/json loses parts of some values without an error: bytes that are not UTF-8, a
// pointer to a nil, the parts of a type with methods that encode it and none that decode
// it. [Encode] knows by its type whether a value may have such parts, and only then decodes
// the JSON once and compares. [Decode] uses the quicker decoder of json/v2 for types to
// which both packages give one meaning. Errors say where the JSON is wrong, and show
// nothing of the value.
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

// likeV1 makes the decoder of json/v2 read what encoding/json reads, in half the time.
// It refuses what the two may take in different ways, which is then for encoding/json
// to decide.
var likeV1 = jsonv2.JoinOptions(jsonv1.DefaultOptionsV1(), jsonv1.ReportErrorsWithLegacySemantics(false),
	jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))

var errNotUTF8 = errors.New("aside: want JSON in UTF-8")

// Decode stores in the value that ptr points to what data says to encoding/json, which
// must be UTF-8. It uses json/v2 only for types to which that gives the meaning that
// encoding/json gives them. Its errors show nothing of data, also where a caller wraps
// them. ptr points to a zero value.
func Decode(data []byte, ptr any) error {
	p := reflect.ValueOf(ptr)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return json.Unmarshal(data, ptr) // which says so
	}
	if infoOf(p.Type().Elem()).v2 {
		if jsonv2.Unmarshal(data, ptr, likeV1) == nil {
			return nil
		}
		p.Elem().SetZero()
	}
	if !utf8.Valid(data) {
		return errNotUTF8
	}
	if err := json.Unmarshal(data, ptr); err != nil {
		return located(err, data, p.Type().Elem())
	}
	return nil
}

// Encode returns the JSON of value, as encoding/json writes it. It refuses a value that
// would be decoded to another one. A value that may be, by its type, by an invalid rune or
// by a null in it, is decoded once to see.
func Encode(value any) ([]byte, error) { return encode(value, false) }

// EncodeHeld is Encode of a value that is decoded to an interface.
func EncodeHeld(value any) ([]byte, error) { return encode(value, true) }

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
	if t.dynamic {
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
	lossy := bytes.Count(data, replaced) // as encoding/json writes what is not UTF-8; U+FFFD itself is written as it is
	switch {
	case doubt == uncalled:
		return nil, fmt.Errorf("aside: want MarshalJSON and UnmarshalJSON in the parts of a %T that have MarshalJSONTo or UnmarshalJSONFrom, which encoding/json does not call", value)
	case lossy == 0 && (doubt == none || doubt == atNull && !bytes.Contains(data, null)):
		return data, nil
	}
	back := reflect.New(v.Type())
	if err := Decode(data, back.Interface()); err != nil {
		return nil, fmt.Errorf("aside: a %T does not decode from its own JSON: %w", value, err)
	}
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

// unencodable says why encoding/json does not encode value, and shows nothing of it.
func unencodable(err error, value any) error {
	switch e := err.(type) { // not what it wraps, which is of a method
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

// addressable returns a shallow copy of v whose address can be taken: encoding/json
// calls methods of pointers only where it has one, and decoding always does.
func addressable(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}

// search finds what is to be doubted of the values that interfaces hold, and whether
// methods write the JSON of one. It takes no more steps than it has left. encoding/json
// writes a byte for nearly each, so where they do not suffice, the JSON leaves out parts
// of the value, which may lead back to themselves: all is doubted then.
type search struct {
	doubt doubt
	raw   bool
	left  int
}

func (s *search) note(d doubt, raw bool) { s.doubt, s.raw = max(s.doubt, d), s.raw || raw }

// step reports whether the search goes on.
func (s *search) step() bool {
	if s.left--; s.left < 0 {
		s.note(always, true)
	}
	return s.left >= 0
}

// in searches a value, but for the parts of one that has a method to encode it: they
// have no JSON of their own, and such a value is doubted by its type.
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

// encodesItself is quick for the types of which there are many, those without a name.
func encodesItself(t reflect.Type) bool { return t.PkgPath() != "" && infoOf(t).by.encodes != "" }

// held searches a value that an interface holds, quickly what JSON itself makes.
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

// comparison is of a value with what was decoded from its JSON. Both may lead back to
// themselves, where methods leave that out of the JSON and bring it back.
type comparison struct {
	all   bool
	depth int
	bytes int // may still be encoded for it, of what interfaces hold
	steps int
	seen  map[pair]bool // once it has taken many steps
}

// pair are two references that are compared, or were.
type pair struct {
	v, w unsafe.Pointer
	len  int
	t    reflect.Type
}

const (
	maxDepth   = 50_000 // encoding/json decodes up to 10,000 objects and lists in each other
	quickSteps = 1_000  // that take no notes
)

// met reports whether v and w are references that have met before: then they are the
// same if all else is. A held value meets itself.
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

// same reports whether w, which was decoded from v's JSON, is v but for what JSON is
// known to lose. It may be wrong only where it says that it is not. Unless c.all is set,
// it leaves out the parts whose types are not to be doubted.
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
	case t == timeType:
		return v.Interface().(time.Time).Equal(w.Interface().(time.Time))
	case t == floatType: // its text has neither its precision nor how it rounds
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
	case reflect.String:
		return v.String() == w.String() || v.Type() == numberType && v.Len() == 0 && w.String() == "0"
	}
	return v.Equal(w)
}

func (c *comparison) sameFields(v, w reflect.Value) bool {
	for _, f := range infoOf(v.Type()).fields {
		one, err := v.FieldByIndexErr(f.Index)
		if err != nil {
			continue // in an embedded pointer that is nil, which is compared itself
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

// sameHeld reports whether what an interface holds would be decoded from its JSON to
// what it is, if JSON kept its type.
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
