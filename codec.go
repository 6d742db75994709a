package aside

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Codec turns values into the bytes that are stored and back. It may be called
// concurrently. Decode must not keep data or return a value that refers to it.
//
// Other programs read what Encode writes, so a Codec adds no envelope of its own
// unless they know it. Decode must refuse data that it did not write: bytes that
// it accepts are served.
type Codec interface {
	Encode(value any) ([]byte, error)
	// Decode stores what data says in the value that ptr points to, which is the
	// zero value of its type.
	Decode(data []byte, ptr any) error
}

// JSON is the Codec of encoding/json.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) Encode(value any) ([]byte, error)  { return json.Marshal(value) }
func (jsonCodec) Decode(data []byte, ptr any) error { return json.Unmarshal(data, ptr) }

var errNull = errors.New("null is stored for a type that has no null")

func codecOf(s *Keyspace) Codec {
	if s.Codec != nil {
		return s.Codec
	}
	return JSON
}

// decode reads a stored value. encoding/json takes null for any type and leaves
// its zero value; a zero that nobody stored must not be served, so null is an
// error for types that never encode to it.
//
// A Codec that panics has met bytes that it did not write: they do not decode.
func decode[T any](s *Keyspace, data []byte) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			var zero T
			value, err = zero, fmt.Errorf("the codec panicked: %v", p)
		}
	}()
	codec := codecOf(s)
	if codec == JSON && bytes.Equal(bytes.TrimSpace(data), []byte("null")) && !hasNull[T]() {
		return value, errNull
	}
	if err := codec.Decode(data, &value); err != nil {
		var zero T
		return zero, err
	}
	return value, nil
}

// hasNull reports whether the zero T encodes to null.
func hasNull[T any]() bool {
	var zero T
	data, err := JSON.Encode(zero)
	return err == nil && string(data) == "null"
}
