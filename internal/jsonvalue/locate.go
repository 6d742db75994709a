package jsonvalue

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// located says where data does not decode to a t: at which byte, in which field, and the
// type that is wanted there. It shows nothing of data, which the texts of encoding/json
// and of decoding methods have pieces of, and it does not wrap err, so that a handler
// that logs wrapped errors does not show them either.
func located(err error, data []byte, t reflect.Type) error {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("aside: want JSON: it is cut or wrong at byte %d", syntax.Offset)
	case errors.As(err, &wrong):
		kind, _, _ := strings.Cut(wrong.Value, " ") // a number stands behind its kind
		in := ""
		if wrong.Field != "" {
			in = fmt.Sprintf(", field %q", wrong.Field)
		}
		return fmt.Errorf("aside: want a %v, not a JSON %s, at byte %d%s", wrong.Type, kind, wrong.Offset, in)
	}
	return fmt.Errorf("aside: a decoding method refuses a part of it%s, with a %T", refusedAt(data, t), err)
}

// lenient is how json/v2 comes as far as encoding/json does.
var lenient = jsonv2.JoinOptions(likeV1, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// refusedAt asks json/v2 where a decoding method fails, which encoding/json does not say.
// The text is empty where json/v2 takes data, or a method of a t for it alone panics.
func refusedAt(data []byte, t reflect.Type) (where string) {
	defer func() { _ = recover() }()
	var at *jsonv2.SemanticError
	if !errors.As(jsonv2.Unmarshal(data, reflect.New(t).Interface(), lenient), &at) {
		return ""
	}
	return fmt.Sprintf(" at byte %d, %s", at.ByteOffset, pathIn(t, at.JSONPointer))
}

// pathIn returns a pointer into the JSON of a t with the names of fields and the places
// in lists. All else that it names, such as a map's keys, is of the value, and is a *.
func pathIn(t reflect.Type, pointer jsontext.Pointer) string {
	var path strings.Builder
	for token := range pointer.Tokens() {
		for t != nil && t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		name := "*"
		switch {
		case t == nil || methodsOf(t).decodes != "":
			t = nil
		case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
			name, t = token, t.Elem()
		case t.Kind() == reflect.Map:
			t = t.Elem()
		case t.Kind() == reflect.Struct:
			name, t = fieldIn(t, token)
		default:
			t = nil
		}
		path.WriteString("/" + name)
	}
	return path.String()
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
