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

// typeInfo is what a type says of the JSON of its values.
type typeInfo struct {
	v2      bool    // json/v2 decodes it as encoding/json does
	doubt   doubt   // of a value whose address is known
	held    doubt   // of a value in an interface, whose address encoding/json does not have
	raw     bool    // methods write JSON
	dynamic bool    // it leads to interfaces, which may hold anything
	timed   bool    // it leads to times, or to methods that may write them
	by      methods // by which it is encoded and decoded

	// Of a struct, the fields that have a place in its JSON, those of embedded structs
	// too, and those of its own that lead to interfaces.
	fields        []reflect.StructField
	dynamicFields []int
	numbered      [][]int // of fields, but those whose numbers are texts in JSON
}

// doubt says when a value may be lost in its own JSON.
type doubt int

const (
	none     doubt = iota
	atNull         // when there is a null in it
	always         // whatever is in it
	uncalled       // it has methods for json/v2 alone
)

var infos sync.Map // reflect.Type: *typeInfo

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

// fieldsOf lists the fields that have a place in a struct's JSON. An embedded struct
// has its fields there, and is among them only as a pointer, which may be nil.
func fieldsOf(t reflect.Type) (fields []reflect.StructField) {
fields:
	for _, f := range reflect.VisibleFields(t) {
		for i := 1; i < len(f.Index); i++ {
			if !flattened(t.FieldByIndex(f.Index[:i])) {
				continue fields // it is a field of another object, or of none
			}
		}
		if flat := flattened(f); flat && f.Type.Kind() == reflect.Pointer || !flat && f.IsExported() && f.Tag.Get("json") != "-" {
			fields = append(fields, f)
		}
	}
	return fields
}

// inspection gathers the findings of all types that a type leads to.
type inspection struct {
	typeInfo
	seen map[place]bool
}

// place is a type, with whether encoding/json has the address of a value that it has
// there: or else it does not find the methods of a pointer to it.
type place struct {
	t         reflect.Type
	addressed bool
}

func inspect(t reflect.Type, addressed bool) *inspection {
	l := &inspection{typeInfo: typeInfo{v2: true}, seen: make(map[place]bool)}
	l.inspect(t, addressed)
	return l
}

func (l *inspection) suspect(d doubt) { l.doubt = max(l.doubt, d) }

// notV2 leaves the type to encoding/json alone, when it is set.
func (l *inspection) notV2(when bool) { l.v2 = l.v2 && !when }

var (
	timeType   = reflect.TypeFor[time.Time]()
	numberType = reflect.TypeFor[json.Number]()
	floatType  = reflect.TypeFor[big.Float]()
	// plain are the types with methods that never write null, and lose nothing.
	plain = map[reflect.Type]bool{timeType: true, reflect.TypeFor[big.Int](): true}
)

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
			l.suspect(always) // only a nil is decoded to it
		}
	case reflect.Slice:
		l.notV2(t.Elem().Kind() == reflect.Uint8 && t.Elem() != reflect.TypeFor[byte]())
		l.inspect(t.Elem(), true)
	case reflect.Array:
		l.inspect(t.Elem(), addressed)
	case reflect.Map:
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

// ownMethods looks at the methods of t and reports whether they decide alone, so that
// its parts have no JSON of their own.
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

// key looks at the type of a map's keys. Two keys whose methods write one text become
// one.
func (l *inspection) key(t reflect.Type) {
	m := methodsOf(t)
	l.notV2(t.Kind() != reflect.String || m != methods{})
	if t.Implements(textEncoder) || m.decodes != "" {
		l.suspect(always)
	}
}

// structFields looks at the fields that have a place in a struct's JSON.
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
			l.suspect(always) // whether they are called depends on what else is embedded
		}
		l.options(f, options)
		l.inspect(f.Type, addressed)
	}
	l.names(t)
}

// flattened reports whether the fields of f, an embedded struct, are fields of the
// JSON object that f is in.
func flattened(f reflect.StructField) bool {
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return f.Anonymous && t.Kind() == reflect.Struct && name == "" && methodsOf(t) == methods{}
}

func (l *inspection) flattenedField(f reflect.StructField, addressed bool) {
	_, options, tagged := strings.Cut(f.Tag.Get("json"), ",")
	l.notV2(tagged && options != "")
	t := f.Type
	if t.Kind() == reflect.Pointer {
		l.suspect(always) // where all its fields are omitted, it comes back as nil
		l.notV2(!f.IsExported())
		t, addressed = t.Elem(), true
	}
	l.inspect(t, addressed)
}

// options looks at what a field's tag says beside its name.
func (l *inspection) options(f reflect.StructField, options string) {
	seen := make(map[string]bool)
	for option := range strings.SplitSeq(options, ",") {
		l.notV2(seen[option])
		seen[option] = true
		switch option {
		case "", "omitempty":
		case "omitzero":
			if _, has := f.Type.MethodByName("IsZero"); has && f.Type != timeType {
				l.suspect(always) // it may call zero what is not
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
				l.suspect(always) // decoding takes it for quoted, encoding does not quote it
			}
		default:
			l.notV2(true)
		}
	}
}

// names looks for fields of which one takes another's place in the JSON.
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

// validName reports whether encoding/json takes the name that a tag gives a field.
func validName(name string) bool {
	for _, r := range name {
		if !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return false
		}
	}
	return true
}

// mayBeNull reports whether a t may have the JSON of a nil pointer to it.
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

// methods are those by which encoding/json encodes and decodes a type: those
// named JSON, those named Text, or none.
type methods struct {
	encodes, decodes string // where the value's address is known
	held             string // encodes, where it is not
	foreign          bool   // it has methods for json/v2
}

var (
	jsonEncoder = reflect.TypeFor[json.Marshaler]()
	textEncoder = reflect.TypeFor[encoding.TextMarshaler]()
	jsonDecoder = reflect.TypeFor[json.Unmarshaler]()
	textDecoder = reflect.TypeFor[encoding.TextUnmarshaler]()
	v2Encoder   = reflect.TypeFor[jsonv2.MarshalerTo]()
	v2Decoder   = reflect.TypeFor[jsonv2.UnmarshalerFrom]()
)

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

// embedsMethods reports whether t may have its methods from a part of it, so that
// they know nothing of the others.
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
// or a JSON string: such a type may hide anything inside.
func DecodesItself(t reflect.Type) bool {
	for _, d := range decoders {
		if t.Implements(d) || reflect.PointerTo(t).Implements(d) {
			return true
		}
	}
	return false
}
