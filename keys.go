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

// Keyspace is a group of keys, `Name:id`, for values of one kind. Declare it once, in a
// variable, and do not modify it afterwards.
type Keyspace struct {
	// Name is the start of every key. It has 1 to 64 bytes, letters, digits, '_', '-' and
	// '.', and is not "lease".
	Name string

	// TTL is how long a value is kept, from 1 ms to a year. Config.TTLs takes precedence
	// where it names the keyspace. Defaults to 10 minutes.
	TTL time.Duration

	// NotFoundTTL is how long an ErrNotFound of the loader is remembered, from 1 ms to a
	// year. Defaults to 0: it is not remembered.
	NotFoundTTL time.Duration

	// RefreshAfter is the age from which a value is loaded again in the background. Reads
	// get the stored value meanwhile, until its TTL is over. A little less than TTL keeps
	// readers from waiting for a value that is read often. A small part of TTL carries a
	// service through trouble of its database with old values. It must be at most TTL less
	// Config.Jitter. Config.RefreshAfter takes precedence where it names the keyspace.
	// Defaults to 0: no refresh.
	//
	// A refresh runs the loader of the read that found the value too old, in one process at
	// a time, with a context that has the values of that read's context and outlives it. A
	// loader must therefore capture neither a transaction nor anything of a request (see the
	// example).
	//
	// A refresh that fails leaves the value and its end as they are. The next one starts
	// after 2 s, then 4 s, and so on up to a minute. A refresh that gets ErrNotFound removes
	// the value. The age stands in a key beside the value, about 100 bytes in Redis; a value
	// that another program has stored is judged by its remaining time.
	RefreshAfter time.Duration

	// RefreshWait is how long reads of a value older than RefreshAfter wait for the new one,
	// from the start of the refresh, before they take the old one. Negative waits for the
	// end of the load, and takes the old value only if the load fails or cannot start.
	// Defaults to 0: reads do not wait.
	RefreshWait time.Duration

	// Codec turns values into the bytes that are stored, and back. Defaults to JSON.
	Codec Codec

	// Share promises that values are never modified after GetOrLoad returned them. Callers
	// may then receive the same value, and a hit on bytes that were decoded before is
	// neither decoded nor copied.
	//
	// Without it each caller gets a value of its own. That is a copy of the decoded value,
	// or one that is decoded again if the Codec is not JSON, or the type may contain parts
	// that cannot be copied: methods that decode it, pointers in unexported fields,
	// interfaces with methods. Defaults to false.
	Share bool
}

// maxIDBytes is the size of the largest id: generous, and far below the limits of Redis.
const maxIDBytes = 64 << 10

// The predefined keyspaces. Their keys and values are shared with programs in other
// languages, so their names and formats must not change.
var (
	chatMessages = Keyspace{Name: "chat_messages", TTL: 30 * time.Minute}
	userChats    = Keyspace{Name: "user_chats", TTL: 10 * time.Minute}
	generation   = Keyspace{Name: "generation", TTL: 5 * time.Minute}
	cancelSignal = Keyspace{Name: "cancel", TTL: time.Minute}
)

// states are the prefixes of keys that hold a state and not a cached value. A Clear of
// the cache leaves them, as a generation that runs must not lose its key.
var states = []string{generation.Name + ":", cancelSignal.Name + ":"}

// isState reports whether a keyspace's keys hold states.
func isState(space string) bool { return slices.Contains(states, space+":") }

// ChatMessages returns the key of a chat room's conversation, `chat_messages:` and
// chatID, kept for 30 minutes.
func ChatMessages(chatID string) Key { return chatMessages.Key(chatID) }

// UserChats returns the key of a user's list of rooms, `user_chats:` and userID, kept for
// 10 minutes.
func UserChats(userID string) Key { return userChats.Key(userID) }

// GenerationKey returns the key `generation:` and chatID. It exists, with the value 1,
// while a reply is being generated, and is kept for 5 minutes unless renewed.
// [Generations] maintains it.
func GenerationKey(chatID string) Key { return generation.Key(chatID) }

// CancelKey returns the key `cancel:` and chatID. While it exists, a running generation
// is asked to stop; its value is 1, and it is kept for 60 seconds. [Generations]
// maintains it.
func CancelKey(chatID string) Key { return cancelSignal.Key(chatID) }

// Key names one value of a keyspace. Make one with [Keyspace.Key]; the zero Key is not
// valid.
type Key struct {
	space Keyspace
	text  string // name:id
}

// Key returns the key of the value that id names. Any non-empty id of at most 64 KiB is
// valid and is used byte for byte. An invalid id or keyspace is reported by the operation
// that receives the key, so that Key can be used inside an expression.
func (s Keyspace) Key(id string) Key {
	return Key{space: s, text: s.Name + ":" + id}
}

// String returns the key as the backend has it, without Config.KeyPrefix.
func (k Key) String() string { return k.text }

// check returns an error if the key is invalid. Every read calls it, so the valid case is
// cheap.
func (k *Key) check() error {
	size := len(k.text) - len(k.space.Name) - len(":") // of the id
	if size > 0 && size <= maxIDBytes && k.space.isValid() {
		return nil
	}
	if err := k.space.check(); err != nil {
		return err
	}
	if size <= 0 {
		return fmt.Errorf("%w: keyspace %q: the id is empty; want one", ErrInvalidKey, k.space.Name)
	}
	return fmt.Errorf("%w: keyspace %q: the id has %d bytes; want at most %d",
		ErrInvalidKey, k.space.Name, size, maxIDBytes)
}

// isValid is check without the reason.
func (s *Keyspace) isValid() bool {
	return isName(s.Name) && (s.TTL == 0 || isTTL(s.TTL)) && (s.NotFoundTTL == 0 || isTTL(s.NotFoundTTL)) && (s.RefreshAfter == 0 || isTTL(s.RefreshAfter))
}

// check returns an error if the keyspace is invalid.
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
		return fmt.Errorf("%w: keyspace %q: RefreshAfter %v: want from %v to the time to live, or 0 for never", ErrInvalidKey, s.Name, s.RefreshAfter, minTTL)
	}
	return nil
}

// acceptedNames describes valid names of keyspaces, for errors.
const acceptedNames = `1 to 64 letters, digits, '_', '-' or '.', other than "lease"`

func checkName(name string) error {
	if !isName(name) {
		return fmt.Errorf("%w: keyspace name %.80q: want %s", ErrInvalidKey, name, acceptedNames)
	}
	return nil
}

// isName reports whether a keyspace may have the name. "lease" is the start of lease
// keys.
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

// inName tells which bytes a name may have. It is a table because each read looks it up.
var inName = func() (table [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") {
		table[c] = true
	}
	return table
}()

// texts checks keys, and returns them as strings without duplicates.
func texts(keys []Key) ([]string, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: no key; want at least one", ErrInvalidKey)
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

// Codec turns values into the bytes that are stored, and back. It may be called
// concurrently. The result of Encode must not share memory with value. Decode must not
// modify or keep data, or return a value that refers to it.
//
// Its errors are logged once per keyspace. They should say where a value is wrong, and
// must not contain the value.
//
// Other programs read the bytes that Encode writes, so a Codec should add no envelope
// that they do not know. Decode must refuse data that Encode did not write: bytes that it
// accepts are served.
//
// A Codec may have a third method, ForKey(key string) Codec, if its bytes are valid under
// one key only, for example because it authenticates the key together with the value.
// Each read then calls ForKey with the key as the backend has it, Config.KeyPrefix
// included, and uses the Codec that it returns.
type Codec interface {
	// Encode returns the bytes to store for value. After an error the value is not stored,
	// but its caller still gets it.
	Encode(value any) ([]byte, error)

	// Decode stores the value of data where ptr points, which holds the zero value of its
	// type.
	Decode(data []byte, ptr any) error
}

// JSON is the default Codec. It writes and reads the same JSON as encoding/json.
//
// A nil slice or map is stored as null, as encoding/json does, which other languages read
// as None or null. Return an empty list instead if they read the key.
//
// Encode refuses a value that its readers would decode as a different one: text that is
// not UTF-8, a pointer to a nil (its JSON is that of a nil pointer), a type with methods
// that encode it and none that decode it, a time in a zone with seconds in its offset, as
// zones had before 1972, and a number in an interface that a float64 does not hold, such
// as an int64 above 2^53.
//
// Some parts are lost or changed without an error, as in encoding/json: unexported fields
// and other parts that it never writes, and the types of values in an interface. A nil
// json.RawMessage comes back as the bytes null, and an empty json.Number as 0, unless the
// field has omitempty. An empty slice or map comes back as nil if the field has
// omitempty, and a json.RawMessage comes back without blanks.
//
// Decode refuses data that is not UTF-8.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) Encode(value any) ([]byte, error)  { return jsonvalue.Encode(value) }
func (jsonCodec) Decode(data []byte, ptr any) error { return jsonvalue.Decode(data, ptr) }

// Bytes is the Codec for values of type []byte or string. They are stored byte for byte.
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

// adopt returns the value that Bytes would decode data to, without a copy. data must not
// be used otherwise from then on.
func adopt[T any](data []byte) (value T, ok bool) {
	switch p := any(&value).(type) {
	case *[]byte:
		*p, ok = data[:len(data):len(data)], true // an append must not write into memory that another caller appends to
	case *string:
		*p, ok = unsafe.String(unsafe.SliceData(data), len(data)), true
	}
	return value, ok
}

func errBytes(value any) error {
	return fmt.Errorf("aside: codec Bytes: want []byte or string, not %T", value)
}

var errNull = errors.New("stored value is null, which the type cannot represent")

// codecOf returns the keyspace's Codec, JSON by default.
func codecOf(s *Keyspace) Codec {
	if s.Codec != nil {
		return s.Codec
	}
	return JSON
}

// forKey replaces the Codec by that of one key, as the backend has it. A ForKey that
// panics or returns nil yields a Codec that refuses every value, so that the read loads
// and nothing is stored.
func (s *Keyspace) forKey(key string) {
	c, ok := s.Codec.(interface{ ForKey(key string) Codec })
	if !ok {
		return
	}
	s.Codec = noCodec{errors.New("aside: ForKey of the codec panicked")}
	defer func() { _ = recover() }()
	if of := c.ForKey(key); of != nil {
		s.Codec = of
	} else {
		s.Codec = noCodec{errors.New("aside: ForKey of the codec returned nil, want a Codec")}
	}
}

// noCodec is the Codec of a key for which ForKey failed.
type noCodec struct{ err error }

func (c noCodec) Encode(any) ([]byte, error) { return nil, c.err }
func (c noCodec) Decode([]byte, any) error   { return c.err }

// sameCodec reports whether a and b are one Codec. Two of a type that cannot be compared
// count as one.
func sameCodec(a, b Codec) bool {
	if reflect.TypeOf(a) != reflect.TypeOf(b) {
		return false
	}
	return !reflect.ValueOf(a).Comparable() || a == b
}

// decode decodes a stored value. encoding/json accepts null for any type and leaves its
// zero value, which was never stored and so must not be served: null is an error unless
// the decoded value encodes to null.
//
// A panic of the Codec is an error as well, since the bytes may be some that it did not
// write. The error has the type of the panic's value and not its text, which may contain
// the stored value.
func decode[T any](s *Keyspace, data []byte) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			var zero T
			value, err = zero, fmt.Errorf("aside: codec panicked with a %T", p)
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
