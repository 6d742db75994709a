package aside

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

// Codec turns values into the bytes that are stored and back. It may be called
// concurrently. Encode's result must not share memory with value. Decode must
// not modify or keep data, or return a value that refers to it.
//
// Errors are logged, once a keyspace: they say where a value is wrong, and must not
// have the value in them.
//
// Other programs read what Encode writes, so a Codec adds no envelope of its own
// unless they know it. Decode must refuse data that it did not write: bytes that
// it accepts are served.
//
// A Codec whose bytes are good under one key only, such as one that encrypts and
// authenticates the key with the value, has a third method, ForKey(key string) Codec: the
// Codec of the key's values, where key is as it stands in the backend, with
// Config.KeyPrefix. Each read calls it, and Encode and Decode of what it returns.
type Codec interface {
	// Encode returns the bytes that are stored for value. An error keeps the value from
	// being stored; its caller gets it all the same.
	Encode(value any) ([]byte, error)

	// Decode stores what data says in the value that ptr points to, which is the
	// zero value of its type.
	Decode(data []byte, ptr any) error
}

// JSON is the Codec of a keyspace that names none. It writes what encoding/json
// writes, and reads what encoding/json reads.
//
// A nil slice or map is null, as in encoding/json: None in Python. Where programs in
// other languages read the key, return an empty list instead.
//
// Encode refuses a value that would be another one to its readers, rather than lose
// part of it: text that is not UTF-8, a pointer to a nil (whose JSON is that of a nil
// pointer), a type with methods that encode it and none that decode it back, a time
// whose zone has an offset with seconds, as zones had before 1972, and a number in an
// interface that a float64 does not hold, such as an int64 above 2^53. Parts
// that encoding/json never writes, such as unexported fields, and the types of values
// in an interface are lost. Some values come back as encoding/json has them: a nil
// json.RawMessage as the bytes null and an empty json.Number as 0, unless its field has
// omitempty, and an empty slice or map as nil where its field has omitempty. A
// json.RawMessage comes back without blanks. Decode refuses data that is not UTF-8.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) Encode(value any) ([]byte, error)  { return jsonvalue.Encode(value) }
func (jsonCodec) Decode(data []byte, ptr any) error { return jsonvalue.Decode(data, ptr) }

// Bytes is the Codec of values that are bytes already, of type []byte or string:
// they are stored as they are.
var Bytes Codec = bytesCodec{}

type bytesCodec struct{}

func (bytesCodec) Encode(value any) ([]byte, error) {
	switch v := value.(type) {
	case []byte:
		return append([]byte{}, v...), nil
	case string:
		return []byte(v), nil
	}
	return nil, errBytes(value)
}

func (bytesCodec) Decode(data []byte, ptr any) error {
	switch p := ptr.(type) {
	case *[]byte:
		*p = append([]byte{}, data...)
	case *string:
		*p = string(data)
	default:
		return errBytes(reflect.ValueOf(ptr).Elem().Interface())
	}
	return nil
}

// adopt returns what Bytes would decode data to, without the copy: data is the
// value's from now on.
func adopt[T any](data []byte) (value T, ok bool) {
	switch p := any(&value).(type) {
	case *[]byte:
		*p, ok = data[:len(data):len(data)], true // who appends must not write where another does
	case *string:
		*p, ok = unsafe.String(unsafe.SliceData(data), len(data)), true
	}
	return value, ok
}

func errBytes(value any) error {
	return fmt.Errorf("aside: the codec Bytes takes []byte and string, not %T", value)
}

var errNull = errors.New("null is stored for a type that has no null")

func codecOf(s *Keyspace) Codec {
	if s.Codec != nil {
		return s.Codec
	}
	return JSON
}

// forKey has the keyspace of one key, as it stands in the backend, use the Codec of that key.
// One that has none is like a Codec that refuses its values.
func (s *Keyspace) forKey(key string) {
	c, ok := s.Codec.(interface{ ForKey(key string) Codec })
	if !ok {
		return
	}
	s.Codec = noCodec{errors.New("aside: the codec's ForKey panicked")}
	defer func() { _ = recover() }()
	if of := c.ForKey(key); of != nil {
		s.Codec = of
	} else {
		s.Codec = noCodec{errors.New("aside: the codec's ForKey returned nil")}
	}
}

// noCodec is the Codec of a key whose own could not be had.
type noCodec struct{ err error }

func (c noCodec) Encode(any) ([]byte, error) { return nil, c.err }
func (c noCodec) Decode([]byte, any) error   { return c.err }

// sameCodec reports whether a and b are one Codec. Those of a type whose values cannot
// be compared are taken for one.
func sameCodec(a, b Codec) bool {
	if reflect.TypeOf(a) != reflect.TypeOf(b) {
		return false
	}
	return !reflect.ValueOf(a).Comparable() || a == b
}

// decode reads a stored value. encoding/json takes null for any type and leaves
// its zero value; a zero that nobody stored must not be served, so null is an
// error where the value that it is decoded to does not encode to null.
//
// A Codec that panics has met bytes that it did not write: they do not decode.
func decode[T any](s *Keyspace, data []byte) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			var zero T
			value, err = zero, fmt.Errorf("aside: the codec panicked with a %T", p)
		}
	}()
	codec := codecOf(s)
	err = codec.Decode(data, &value)
	if err == nil && codec == JSON && isNull(data) && !encodesToNull(value) {
		err = errNull
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return value, nil
}

func isNull(data []byte) bool { return bytes.Equal(bytes.TrimSpace(data), []byte("null")) }

func encodesToNull(value any) bool {
	data, err := JSON.Encode(value)
	return err == nil && isNull(data)
}
