package jsonvalue

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// located says where data does not decode to a t: at which byte, in which field, and the
// type that is wanted there. It shows nothing of data, which the texts of encoding/json
// and of decoding methods have pieces of, and it does not wrap err, so that a handler
// that logs wrapped errors does not show them either.
//
// A decoding method may return an error of encoding/json, with texts of its own: only
// kinds of JSON and names of fields of the type are taken from one.
func located(err error, data []byte, t reflect.Type) error {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax) && isPlaceIn(data, syntax.Offset):
		return fmt.Errorf("aside: want JSON: it is cut or wrong at byte %d", syntax.Offset)
	case errors.As(err, &wrong) && isPlaceIn(data, wrong.Offset):
		kind, _, _ := strings.Cut(wrong.Value, " ") // a number stands behind its kind
		if !slices.Contains(kinds, kind) {
			break
		}
		in := ""
		if wrong.Field != "" {
			in = fmt.Sprintf(", field %q", fieldsIn(t, wrong.Field))
		}
		return fmt.Errorf("aside: want a %v, not a JSON %s, at byte %d%s", wrong.Type, kind, wrong.Offset, in)
	}
	where, byMethod := refusedAt(data, t)
	if byMethod {
		return fmt.Errorf("aside: a decoding method refuses a part of it%s, with a %T", where, err)
	}
	return fmt.Errorf("aside: a part of it does not decode%s, with a %T", where, err)
}

// kinds are those that encoding/json names in an error.
var kinds = []string{"number", "string", "bool", "array", "object"}

func isPlaceIn(data []byte, offset int64) bool { return 0 <= offset && offset <= int64(len(data)) }

// fieldsIn returns a path of fields of a t as encoding/json writes it, through lists and
// maps, with a * for each part that is no name of a field.
func fieldsIn(t reflect.Type, path string) string {
	parts := strings.Split(path, ".")
	for i, part := range parts {
		for t != nil && methodsOf(t).decodes == "" && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Array || t.Kind() == reflect.Map) {
			t = t.Elem()
		}
		if t == nil || t.Kind() != reflect.Struct || methodsOf(t).decodes != "" {
			parts[i], t = "*", nil
		} else if f, ok := t.FieldByName(part); ok && f.Anonymous && flattened(f) {
			parts[i], t = f.Name, f.Type
		} else {
			parts[i], t = fieldIn(t, part)
		}
	}
	return strings.Join(parts, ".")
}

// lenient is how json/v2 comes as far as encoding/json does.
var lenient = jsonv2.JoinOptions(likeV1, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// refusedAt asks json/v2 where a part does not decode, which encoding/json does not say,
// and whether a method decodes it. The text is empty where json/v2 takes data, or a
// method of a t for it alone panics.
func refusedAt(data []byte, t reflect.Type) (where string, byMethod bool) {
	defer func() { _ = recover() }()
	var at *jsonv2.SemanticError
	if !errors.As(jsonv2.Unmarshal(data, reflect.New(t).Interface(), lenient), &at) {
		return "", false
	}
	path, byMethod := pathIn(t, at.JSONPointer)
	if path != "" {
		path = ", " + path
	}
	return fmt.Sprintf(" at byte %d%s", at.ByteOffset, path), byMethod
}

// pathIn returns a pointer into the JSON of a t with the names of fields and the places
// in lists, and whether a method decodes the part that it points to. All else that it
// names, such as a map's keys, is of the value, and is a *.
func pathIn(t reflect.Type, pointer jsontext.Pointer) (string, bool) {
	var path strings.Builder
	byMethod, byKey := false, false
	elem := func() {
		for t != nil && t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		byMethod = byMethod || t != nil && methodsOf(t).decodes != ""
	}
	elem()
	for token := range pointer.Tokens() {
		name := "*"
		byKey = false
		switch {
		case t == nil || byMethod:
			t = nil
		case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
			name, t = token, t.Elem()
		case t.Kind() == reflect.Map:
			byKey = methodsOf(t.Key()).decodes != "" // it may be the key that is refused
			t = t.Elem()
		case t.Kind() == reflect.Struct:
			name, t = fieldIn(t, token)
		default:
			t = nil
		}
		path.WriteString("/" + name)
		elem()
	}
	return path.String(), byMethod || byKey
}

// fieldIn returns the name that a field of a struct has in JSON, and its type.
func fieldIn(t reflect.Type, token string) (name string, of reflect.Type) {
	for _, f := range infoOf(t).fields {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		if strings.EqualFold(name, token) {
			return name, f.Type
		}
	}
	return "*", nil
}
