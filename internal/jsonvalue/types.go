package jsonvalue

import (
	"encoding"
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode"

	jsonv2 "github.com/go-json-experiment/json"
)

// typeInfo has the properties of a type that decide how its values are encoded and decoded.
// It is made once for each type and not modified.
type typeInfo struct {
	v2      bool    // json/v2 decodes it as encoding/json does
	doubt   doubt   // if encoding/json has the address of the value
	held    doubt   // if it does not, as for a value in an interface
	raw     bool    // a method writes JSON, which may be invalid UTF-8
	dynamic bool    // it leads to interfaces, which may hold any type
	timed   bool    // it leads to times, or to methods that may write some
	by      methods // by which it is encoded and decoded

	// For a struct only.
	fields        []reflect.StructField // with a place in its JSON, also those of embedded structs
	dynamicFields []int                 // indexes of the direct fields that lead to interfaces
	numbered      [][]int               // indexes of fields, without those with the tag option "string"
}

// doubt says when a part of a value may be lost in its JSON. A larger doubt includes a
// smaller one.
type doubt int

const (
	none     doubt = iota
	atNull         // if its JSON has a null, which may stand for a nil or for a pointer to one
	always         // for any value
	uncalled       // the type has methods that only json/v2 calls, so it is refused
)

// infos has the typeInfo of each type that was met: *typeInfo by reflect.Type. It is never
// emptied, as a program caches values of a few types only.
var infos sync.Map

// infoOf returns the typeInfo of t.
func infoOf(t reflect.Type) *typeInfo {
	if known, ok := infos.Load(t); ok {
		return known.(*typeInfo)
	}
	known := inspect(t, true).typeInfo
	known.held = inspect(t, false).doubt
	known.by = methodsOf(t)
	if t.Kind() == reflect.Struct {
		known.fields = fieldsOf(t)
		for _, f := range known.fields {
			if !flattened(f) && !isQuoted(f) {
				known.numbered = append(known.numbered, f.Index)
			}
		}
		for i := range t.NumField() {
			if f := t.Field(i); known.dynamic && (f.IsExported() || flattened(f)) && f.Tag.Get("json") != "-" && inspect(f.Type, true).dynamic {
				known.dynamicFields = append(known.dynamicFields, i)
			}
		}
	}
	actual, _ := infos.LoadOrStore(t, &known)
	return actual.(*typeInfo)
}

// fieldsOf returns the fields that have a place in the JSON of a struct. The fields of an
// embedded struct stand in place of it. An embedded pointer to a struct is listed as well,
// because it may be nil.
func fieldsOf(t reflect.Type) (fields []reflect.StructField) {
fields:
	for _, f := range reflect.VisibleFields(t) {
		for i := 1; i < len(f.Index); i++ {
			if !flattened(t.FieldByIndex(f.Index[:i])) {
				continue fields // its object is another one, or has no place in the JSON
			}
		}
		if flat := flattened(f); flat && f.Type.Kind() == reflect.Pointer || !flat && f.IsExported() && f.Tag.Get("json") != "-" {
			fields = append(fields, f)
		}
	}
	return fields
}

// inspection gathers the findings on a type and on all types that its values may contain.
type inspection struct {
	typeInfo
	seen map[place]bool // types may refer to themselves
}

// place is a type at a place in another: addressed says that encoding/json has the address of
// a value there. It calls the methods of a pointer to the value only if it has.
type place struct {
	t         reflect.Type
	addressed bool
}

// inspect returns the findings on t and all types in it.
func inspect(t reflect.Type, addressed bool) *inspection {
	l := &inspection{typeInfo: typeInfo{v2: true}, seen: make(map[place]bool)}
	l.inspect(t, addressed)
	return l
}

// suspect notes a doubt.
func (l *inspection) suspect(d doubt) { l.doubt = max(l.doubt, d) }

// notV2 has encoding/json decode the type, if when is true.
func (l *inspection) notV2(when bool) { l.v2 = l.v2 && !when }

var (
	timeType   = reflect.TypeFor[time.Time]()
	numberType = reflect.TypeFor[json.Number]()
	floatType  = reflect.TypeFor[big.Float]()
	// plain has types with methods that never write null and lose nothing.
	plain = map[reflect.Type]bool{timeType: true, reflect.TypeFor[big.Int](): true}
)

// inspect adds the findings on t. addressed is as in [place].
func (l *inspection) inspect(t reflect.Type, addressed bool) {
	if l.seen[place{t, addressed}] {
		return
	}
	l.seen[place{t, addressed}] = true
	if t == timeType {
		l.timed = true
		return
	}
	if kind := t.Kind(); kind != reflect.Pointer && kind != reflect.Interface && l.ownMethods(t, addressed) {
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		l.notV2(t.Name() != "")
		if mayBeNull(t.Elem()) {
			l.suspect(atNull)
		}
		l.inspect(t.Elem(), true)
	case reflect.Interface:
		l.notV2(t != reflect.TypeFor[any]())
		if l.dynamic = true; t.NumMethod() > 0 {
			l.suspect(always) // encoding/json decodes nothing but null to it
		}
	case reflect.Slice: // its elements have an address, and those of an array if the array has
		l.notV2(t.Elem().Kind() == reflect.Uint8 && t.Elem() != reflect.TypeFor[byte]())
		l.inspect(t.Elem(), true)
	case reflect.Array:
		l.inspect(t.Elem(), addressed)
	case reflect.Map: // its elements have no address
		l.key(t.Key())
		l.inspect(t.Elem(), false)
	case reflect.Struct:
		l.structFields(t, addressed)
	case reflect.String:
		l.notV2(t == numberType)
	case reflect.Uintptr, reflect.Complex64, reflect.Complex128, reflect.Chan, reflect.Func, reflect.UnsafePointer:
		l.notV2(true)
	}
}

// ownMethods adds the findings on the methods of t. It reports whether they encode and decode t
// alone, so that the types of its parts need not be inspected.
func (l *inspection) ownMethods(t reflect.Type, addressed bool) bool {
	m := methodsOf(t)
	l.raw = l.raw || m.encodes == "JSON"
	l.timed = l.timed || m.encodes != ""
	l.notV2(m.foreign)
	if m.foreign && (m.encodes == "" || m.decodes == "") {
		l.suspect(uncalled)
	}
	if m.encodes == "" && m.decodes == "" {
		return false
	}
	if m.encodes != m.decodes || !addressed && m.held != m.encodes || embedsMethods(t) || t == floatType {
		l.suspect(always)
	}
	return m.encodes == m.decodes
}

// key adds the findings on the type of a map's keys. Two keys for which a method writes the
// same text become one.
func (l *inspection) key(t reflect.Type) {
	m := methodsOf(t)
	l.notV2(t.Kind() != reflect.String || m != methods{})
	if t.Implements(textEncoder) || m.decodes != "" {
		l.suspect(always)
	}
}

// structFields adds the findings on the fields that have a place in the JSON of a struct.
func (l *inspection) structFields(t reflect.Type, addressed bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if tag == "-" {
			continue
		}
		if flattened(f) {
			l.flattenedField(f, addressed)
			continue
		}
		if !f.IsExported() {
			l.notV2(f.Anonymous || tag != "")
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		l.notV2(f.Anonymous || !validName(name) || strings.HasSuffix(tag, ","))
		if f.Anonymous && name == "" && methodsOf(f.Type) != (methods{}) {
			l.suspect(always) // the other embedded fields decide whether the methods are called
		}
		l.options(f, options)
		l.inspect(f.Type, addressed)
	}
	l.names(t)
}

// flattened reports whether f is an embedded struct with its fields in the JSON object that f is
// in, not in one of its own.
func flattened(f reflect.StructField) bool {
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return f.Anonymous && t.Kind() == reflect.Struct && name == "" && methodsOf(t) == methods{}
}

// flattenedField adds the findings on a field that is flattened.
func (l *inspection) flattenedField(f reflect.StructField, addressed bool) {
	_, options, tagged := strings.Cut(f.Tag.Get("json"), ",")
	l.notV2(tagged && options != "")
	t := f.Type
	if t.Kind() == reflect.Pointer {
		l.suspect(always) // if all its fields are omitted, it comes back as nil
		l.notV2(!f.IsExported())
		t, addressed = t.Elem(), true
	}
	l.inspect(t, addressed)
}

// options adds the findings on the options of a field's tag. The two packages do not give an
// option that occurs twice or is unknown the same meaning.
func (l *inspection) options(f reflect.StructField, options string) {
	seen := make(map[string]bool)
	for option := range strings.SplitSeq(options, ",") {
		l.notV2(seen[option])
		seen[option] = true
		switch option {
		case "", "omitempty":
		case "omitzero":
			if _, has := f.Type.MethodByName("IsZero"); has && f.Type != timeType {
				l.suspect(always) // the method may report a value as zero that is not
			} else if _, has := reflect.PointerTo(f.Type).MethodByName("IsZero"); has && f.Type != timeType {
				l.suspect(always)
			}
		case "string":
			t := f.Type
			if t.Kind() == reflect.Pointer {
				t = t.Elem()
			}
			l.notV2(true)
			if methodsOf(t) != (methods{}) {
				l.suspect(always) // encoding does not quote its JSON, and decoding wants it quoted
			}
		default:
			l.notV2(true)
		}
	}
}

// names looks for fields with colliding names: two with one name at one depth are both left
// out of the JSON, and two that differ in case only are told apart in different ways by the
// two packages.
func (l *inspection) names(t reflect.Type) {
	exact, folded := make(map[string]int), make(map[string]bool)
	for _, f := range fieldsOf(t) {
		if flattened(f) {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || !validName(name) {
			name = f.Name
		}
		if exact[name] == len(f.Index) {
			l.suspect(always) // neither is written
		}
		exact[name] = len(f.Index)
		fold := strings.ToLower(strings.ToUpper(name))
		l.notV2(folded[fold])
		folded[fold] = true
	}
}

// validName reports whether encoding/json accepts name from a field's tag. If not, it uses the
// name of the field.
func validName(name string) bool {
	for _, r := range name {
		if !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return false
		}
	}
	return true
}

// mayBeNull reports whether null may be the JSON of a t, so that a pointer to it comes back
// as nil.
func mayBeNull(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface:
		return true
	}
	if m := methodsOf(t); m.encodes != "" {
		return m.encodes == "JSON" && !plain[t]
	}
	return t.Kind() == reflect.Slice || t.Kind() == reflect.Map
}

// methods says by which methods encoding/json encodes and decodes a type: "JSON" for
// MarshalJSON and UnmarshalJSON, "Text" for MarshalText and UnmarshalText, "" for none.
type methods struct {
	encodes, decodes string // if encoding/json has the address of the value
	held             string // encodes, if it does not
	foreign          bool   // the type has methods that only json/v2 calls
}

var (
	jsonEncoder = reflect.TypeFor[json.Marshaler]()
	textEncoder = reflect.TypeFor[encoding.TextMarshaler]()
	jsonDecoder = reflect.TypeFor[json.Unmarshaler]()
	textDecoder = reflect.TypeFor[encoding.TextUnmarshaler]()
	v2Encoder   = reflect.TypeFor[jsonv2.MarshalerTo]()
	v2Decoder   = reflect.TypeFor[jsonv2.UnmarshalerFrom]()
)

// methodsOf returns the methods of t.
func methodsOf(t reflect.Type) methods {
	if t.Kind() != reflect.Pointer && t.Kind() != reflect.Interface && t.PkgPath() == "" && t.Kind() != reflect.Struct {
		return methods{} // it has no methods, and is looked at often
	}
	p := t
	if t.Kind() != reflect.Pointer && t.Kind() != reflect.Interface {
		p = reflect.PointerTo(t)
	}
	by := func(t, json, text reflect.Type) string {
		switch {
		case t.Implements(json):
			return "JSON"
		case t.Implements(text):
			return "Text"
		}
		return ""
	}
	return methods{
		encodes: by(p, jsonEncoder, textEncoder), decodes: by(p, jsonDecoder, textDecoder),
		held:    by(t, jsonEncoder, textEncoder),
		foreign: p.Implements(v2Encoder) || p.Implements(v2Decoder),
	}
}

// embedsMethods reports whether t may have its methods from an embedded field. Such methods
// know nothing of t's other fields, which are then lost.
func embedsMethods(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	for i := range t.NumField() {
		if f := t.Field(i); f.Anonymous && methodsOf(f.Type) != (methods{}) {
			return true
		}
	}
	return false
}

var decoders = []reflect.Type{jsonDecoder, v2Decoder, textDecoder}

// DecodesItself reports whether a t, or a pointer to it, has a method that decodes JSON
// or a JSON string. Its unexported fields may then refer to anything, which callers that
// copy or measure a decoded value have to know.
func DecodesItself(t reflect.Type) bool {
	for _, d := range decoders {
		if t.Implements(d) || reflect.PointerTo(t).Implements(d) {
			return true
		}
	}
	return false
}
