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
	"reflect"
	"time"
	"unicode/utf8"

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
func Encode(value any) ([]byte, error) {
	if value == nil {
		return json.Marshal(nil)
	}
	v := addressable(reflect.ValueOf(value))
	t := infoOf(v.Type())
	data, err := json.Marshal(v.Addr().Interface())
	var failed *json.MarshalerError
	if errors.As(err, &failed) {
		return nil, fmt.Errorf("aside: an encoding method of a %v fails with a %T", failed.Type, failed.Err)
	}
	if err != nil {
		return nil, err
	}
	doubt, raw := t.doubt, t.raw
	if t.dynamic {
		held, heldRaw := heldIn(v)
		doubt, raw = max(doubt, held), raw || heldRaw
	}
	if raw && !utf8.Valid(data) {
		return nil, errNotUTF8
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
	if doubt != none && !same(v, back.Elem(), doubt == always) {
		return nil, fmt.Errorf("aside: a %T decodes to another value from its own JSON", value)
	}
	return data, nil
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

// heldIn reports what is to be doubted of the values that interfaces in v hold, and
// whether methods write the JSON of one.
func heldIn(v reflect.Value) (d doubt, raw bool) {
	note := func(held doubt, heldRaw bool) { d, raw = max(d, held), raw || heldRaw }
	switch v.Kind() {
	case reflect.Interface:
		if !v.IsNil() {
			return heldBy(v.Interface())
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return heldIn(v.Elem())
		}
	case reflect.Struct:
		for _, i := range infoOf(v.Type()).dynamicFields {
			note(heldIn(v.Field(i)))
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			note(heldIn(v.Index(i)))
		}
	case reflect.Map:
		if m, ok := v.Interface().(map[string]any); ok {
			return heldBy(m)
		}
		for all := v.MapRange(); all.Next(); {
			note(heldIn(all.Value()))
		}
	}
	return d, raw
}

// heldBy is heldIn of one value, quickly for what JSON itself makes.
func heldBy(value any) (d doubt, raw bool) {
	switch v := value.(type) {
	case nil, string, float64, bool, int, int64, json.Number:
	case []any:
		for i := range v {
			held, heldRaw := heldBy(v[i])
			d, raw = max(d, held), raw || heldRaw
		}
	case map[string]any:
		for _, e := range v {
			held, heldRaw := heldBy(e)
			d, raw = max(d, held), raw || heldRaw
		}
	default:
		t := infoOf(reflect.TypeOf(value))
		d, raw = t.held, t.raw
		if t.dynamic {
			held, heldRaw := heldIn(reflect.ValueOf(value))
			d, raw = max(d, held), raw || heldRaw
		}
	}
	return d, raw
}

// same reports whether w, which was decoded from v's JSON, is v but for what JSON is
// known to lose. It may be wrong only where it says that it is not. Unless all is set,
// it leaves out the parts whose types are not to be doubted.
func same(v, w reflect.Value, all bool) bool {
	t := v.Type()
	known := infoOf(t)
	if !all && known.doubt == none && known.held == none && !known.dynamic {
		return true
	}
	switch {
	case t.Kind() == reflect.Pointer:
		return v.IsNil() == w.IsNil() && (v.IsNil() || same(v.Elem(), w.Elem(), all))
	case t.Kind() == reflect.Interface:
		return v.IsNil() == w.IsNil() && (v.IsNil() || sameHeld(v.Elem(), all))
	case t == timeType:
		return v.Interface().(time.Time).Equal(w.Interface().(time.Time))
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
	return sameParts(v, w, all)
}

func sameParts(v, w reflect.Value, all bool) bool {
	switch v.Kind() {
	case reflect.Struct:
		return sameFields(v, w, all)
	case reflect.Slice, reflect.Array:
		if v.Len() != w.Len() {
			return false
		}
		for i := range v.Len() {
			if !same(v.Index(i), w.Index(i), all) {
				return false
			}
		}
		return true
	case reflect.Map:
		if v.Len() != w.Len() {
			return false
		}
		for each := v.MapRange(); each.Next(); {
			if other := w.MapIndex(each.Key()); !other.IsValid() || !same(each.Value(), other, all) {
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

func sameFields(v, w reflect.Value, all bool) bool {
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
		} else if !same(one, two, all) {
			return false
		}
	}
	return true
}

// sameHeld reports whether what an interface holds would be decoded from its JSON to
// what it is, if JSON kept its type.
func sameHeld(v reflect.Value, all bool) bool {
	data, err := json.Marshal(v.Interface())
	back := reflect.New(v.Type())
	return err == nil && json.Unmarshal(data, back.Interface()) == nil && same(v, back.Elem(), all)
}
