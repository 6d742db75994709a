package aside

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"
	"unsafe"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

// Keyspace is a group of keys, `Name:id`, that hold values of one kind. Make it
// once, in a variable; it is not modified.
type Keyspace struct {
	// Name is what keys start with. It is at most 64 bytes of letters, digits,
	// '_', '-' and '.', and not "lease".
	Name string

	// TTL is how long a value is kept. Config.TTLs, where it names the keyspace,
	// takes precedence. Defaults to 10 minutes.
	TTL time.Duration

	// NotFoundTTL is how long ErrNotFound from a loader is kept. Defaults to 0:
	// it is not.
	NotFoundTTL time.Duration

	// RefreshAfter, when it is not 0, is the age from which a value is loaded again in the
	// background, while reads go on getting the one that is there until its TTL is over.
	// A little less than TTL, nobody waits for a value that is read often; a small part of it, old
	// values carry a service through its database's trouble. Config.RefreshAfter, where
	// it names the keyspace, takes precedence. The age stands in a key beside the
	// value, of some 100 bytes in Redis. One process at a time refreshes a value, with the
	// loader of the read that found it too old, and a context that outlives that read's
	// and has its values: a loader must capture neither a transaction nor anything of
	// a request (see the example). A refresh that fails leaves the value and its end as
	// they are, and the next is made after 2 s, then 4, and so on up to a minute; one that finds ErrNotFound
	// removes the value. It cannot be more than TTL, less Config.Jitter. A value that
	// another program has stored is as old as its remaining time says.
	RefreshAfter time.Duration

	// RefreshWait is how long, from the start of the refresh on, reads of a value that is
	// older than RefreshAfter wait for the new one before they take the old one. Defaults
	// to 0: they do not. Negative waits until the load has ended, and takes the old one
	// only when it has failed, or was not begun.
	RefreshWait time.Duration

	// Codec turns values into the bytes that are stored. Defaults to JSON, of which
	// a nil slice or map is null: None in Python.
	Codec Codec

	// Share says that values are never modified once loaded, so that callers may
	// be handed the same one: a hit on a value that was decoded before and has
	// not changed since is not decoded again. Without it, each caller's value is
	// its own: a copy of the one that was decoded, or, where the type may have what
	// cannot be copied (methods that decode it, pointers in unexported fields,
	// interfaces with methods) or the Codec is not JSON, decoded again.
	Share bool
}

// maxIDBytes bounds a key's id: generous, and far from what a Redis command may
// carry.
const maxIDBytes = 64 << 10

// The guide's keyspaces. Their keys and values are shared with other programs.
var (
	chatMessages = Keyspace{Name: "chat_messages", TTL: 30 * time.Minute}
	userChats    = Keyspace{Name: "user_chats", TTL: 10 * time.Minute}
	generation   = Keyspace{Name: "generation", TTL: 5 * time.Minute}
	cancelSignal = Keyspace{Name: "cancel", TTL: time.Minute}
)

// states are the prefixes of keys that say what is going on. They are not cached, so
// a Clear of what is cached leaves them.
var states = []string{generation.Name + ":", cancelSignal.Name + ":"}

func isState(space string) bool { return slices.Contains(states, space+":") }

// ChatMessages is the key of a chat room's conversation,
// `chat_messages:{chatID}`, kept for 30 minutes.
func ChatMessages(chatID string) Key { return chatMessages.Key(chatID) }

// UserChats is the key of a user's list of rooms, `user_chats:{userID}`, kept for
// 10 minutes, for those who choose to cache it.
func UserChats(userID string) Key { return userChats.Key(userID) }

// GenerationKey is the key that exists, with the value 1, while a reply is being
// generated: `generation:{chatID}`, kept for 5 minutes unless renewed.
// [Generations] maintains it.
func GenerationKey(chatID string) Key { return generation.Key(chatID) }

// CancelKey is the key that asks a running generation to stop:
// `cancel:{chatID}`, with the value 1, kept for 60 seconds. [Generations]
// maintains it.
func CancelKey(chatID string) Key { return cancelSignal.Key(chatID) }

// Key names one value of a keyspace. Its zero value is not valid.
type Key struct {
	space Keyspace
	text  string // name:id
}

// Key returns the key of the value that id names. Any non-empty id of at most
// 64 KiB is good: whatever bytes it has stand in the key as they are. An invalid id
// or keyspace is reported by the operation that the key is handed to.
func (s Keyspace) Key(id string) Key {
	return Key{space: s, text: s.Name + ":" + id}
}

// String returns the key as it stands in the backend, without Config.KeyPrefix.
func (k Key) String() string { return k.text }

// check returns what is wrong with the key. Each read asks.
func (k *Key) check() error {
	size := len(k.text) - len(k.space.Name) - len(":") // of the id
	if size > 0 && size <= maxIDBytes && k.space.isValid() {
		return nil
	}
	if err := k.space.check(); err != nil {
		return err
	}
	if size <= 0 {
		return fmt.Errorf("%w: keyspace %q: the id is empty", ErrInvalidKey, k.space.Name)
	}
	return fmt.Errorf("%w: keyspace %q: the id has %d bytes; at most %d are accepted",
		ErrInvalidKey, k.space.Name, size, maxIDBytes)
}

func (s *Keyspace) isValid() bool {
	return isName(s.Name) && (s.TTL == 0 || isTTL(s.TTL)) && (s.NotFoundTTL == 0 || isTTL(s.NotFoundTTL)) && (s.RefreshAfter == 0 || isTTL(s.RefreshAfter))
}

// check returns what is wrong with the keyspace.
func (s *Keyspace) check() error {
	if err := checkName(s.Name); err != nil {
		return err
	}
	if s.TTL != 0 && !isTTL(s.TTL) {
		return fmt.Errorf("%w: keyspace %q: %w", ErrInvalidKey, s.Name, checkTTL(s.TTL))
	}
	if s.NotFoundTTL != 0 && !isTTL(s.NotFoundTTL) {
		return fmt.Errorf("%w: keyspace %q: NotFoundTTL: %w", ErrInvalidKey, s.Name, checkTTL(s.NotFoundTTL))
	}
	if s.RefreshAfter != 0 && !isTTL(s.RefreshAfter) {
		return fmt.Errorf("%w: keyspace %q: RefreshAfter %v: from %v to the time to live is accepted, or 0 for never", ErrInvalidKey, s.Name, s.RefreshAfter, minTTL)
	}
	return nil
}

const acceptedNames = `1 to 64 letters, digits, '_', '-' or '.', and not "lease",`

func checkName(name string) error {
	if !isName(name) {
		return fmt.Errorf("%w: keyspace name %.80q: %s are accepted", ErrInvalidKey, name, acceptedNames)
	}
	return nil
}

func isName(name string) bool {
	if name == "" || len(name) > 64 || name == "lease" {
		return false
	}
	for i := range len(name) {
		if !inName[name[i]] {
			return false
		}
	}
	return true
}

// inName are the bytes of names. It is a table, as each read asks.
var inName = func() (table [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") {
		table[c] = true
	}
	return table
}()

// texts checks keys and returns them as strings, each once.
func texts(keys []Key) ([]string, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: no key was given; at least one is needed", ErrInvalidKey)
	}
	out := make([]string, 0, len(keys))
	seen := make(map[string]bool, len(keys))
	for _, k := range keys {
		if err := k.check(); err != nil {
			return nil, err
		}
		if !seen[k.text] {
			seen[k.text] = true
			out = append(out, k.text)
		}
	}
	return out, nil
}

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
