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

// located returns an error that says where data does not decode to a t: at which byte, in which
// field, and which type is wanted there. err is encoding/json's error.
//
// It shows nothing of data. The texts of encoding/json and of decoding methods quote pieces of
// it, so none is used, and err is not wrapped: a log handler may print the errors that
// another wraps. A decoding method may also return an error of encoding/json with texts of its
// own, so that from one only kinds of JSON and names of fields of the type are taken.
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

// kinds are the kinds of JSON that encoding/json names in an error.
var kinds = []string{"number", "string", "bool", "array", "object"}

// isPlaceIn reports whether data has a byte offset. A method's own error may have any.
func isPlaceIn(data []byte, offset int64) bool { return 0 <= offset && offset <= int64(len(data)) }

// fieldsIn returns path, which encoding/json has written, with a * for each part that is not
// the name of a field of a t. Lists and maps on the way have no part in such a path.
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

// lenient has json/v2 accept all JSON that encoding/json accepts, so that it gets as far as the
// part that encoding/json does not decode.
var lenient = jsonv2.JoinOptions(likeV1, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// refusedAt returns the place of the part of data that does not decode to a t, as a text, and
// whether a method decodes that part. encoding/json does not tell the place if a method
// returns the error, so json/v2 decodes data once more. The text is empty if json/v2 accepts
// data, or if a method that only json/v2 calls panics.
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

// pathIn returns pointer, which points into the JSON of a t, and whether a method decodes the
// part that it points to. Names of fields and indexes of lists stay; any other name, such as
// a map's key, belongs to the value, and is replaced by a *.
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
			byKey = methodsOf(t.Key()).decodes != "" // the method may refuse the key
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

// fieldIn returns the JSON name and the type of t's field that token stands for, or * and nil.
// The name is the tag's, not token's: encoding/json ignores case, and data has chosen that.
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
