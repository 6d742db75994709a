package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"
)

// Message is an entry of a chat history.
type Message struct {
	ID        string    `json:"id"`
	Role      string    `json:"role"`
	Content   string    `json:"content"`
	CreatedAt time.Time `json:"created_at"`
}

// history returns a conversation of 50 messages, about 10 KB of JSON.
func history() []Message {
	began := time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)
	roles := []string{"user", "assistant"}
	sentence := "a reply of the usual length, with \"quotes\", an umlaut (ü) and a line\nbreak, so that there is something to escape"
	messages := make([]Message, 50)
	for i := range messages {
		messages[i] = Message{
			ID:        fmt.Sprintf("01J9ZQ4T8V%016d", i),
			Role:      roles[i%2],
			Content:   fmt.Sprintf("message %d: %s", i, sentence[:60+i]),
			CreatedAt: began.Add(time.Duration(i) * 17 * time.Second),
		}
	}
	return messages
}

// The values of all measurements.
var (
	smallValue    = []byte(strings.Repeat("0123456789", 10))
	historyValue  = history()
	historyJSON   = mustJSON(historyValue)
	errWrongValue = fmt.Errorf("the value is not the one that was stored")
)

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// ttl is the time to live of values, longer than any measurement.
const ttl = 30 * time.Minute

// kind is a kind of value. It knows how to read one and how to check it.
type kind struct {
	name  string // in the names of jobs
	title string // in the report
	size  int    // of the plain encoding, in bytes
	keys  int    // how many "many keys" are
	bytes []byte // the value; nil means a decoded history
}

// kinds returns the kinds of values: a small one, in which the cost of the library shows, a large
// one, and a decoded one, in which that of decoding does.
func (b *bench) kinds() []kind {
	return []kind{
		{name: "100B", title: "100 bytes", size: len(smallValue), keys: b.scale(10_000, 200), bytes: smallValue},
		{name: "10KB", title: "50 messages (10 KB) as bytes", size: len(historyJSON), keys: b.scale(1_000, 50), bytes: historyJSON},
		{name: "messages", title: "50 messages decoded to a slice of structs", size: len(historyJSON), keys: b.scale(1_000, 50)},
	}
}

// read reads id from s and checks the value's length. It is the operation that is measured, so
// it does no more than tell a value from none.
func (k kind) read(ctx context.Context, s store, id string) error {
	if k.bytes != nil {
		v, err := s.Bytes(ctx, id)
		if err == nil && len(v) != len(k.bytes) {
			err = fmt.Errorf("%w: %d bytes", errWrongValue, len(v))
		}
		return err
	}
	v, err := s.Messages(ctx, id)
	if err == nil && len(v) != len(historyValue) {
		err = fmt.Errorf("%w: %d messages", errWrongValue, len(v))
	}
	return err
}

// check reads id from s and compares the whole value, before a measurement.
func (k kind) check(ctx context.Context, s store, id string) error {
	if k.bytes != nil {
		v, err := s.Bytes(ctx, id)
		if err == nil && v != string(k.bytes) {
			err = fmt.Errorf("%w: %.50q", errWrongValue, v)
		}
		return err
	}
	v, err := s.Messages(ctx, id)
	if err != nil {
		return err
	}
	for i := range v {
		v := v[i]                       // it may be shared
		v.CreatedAt = v.CreatedAt.UTC() // msgpack decodes times as local ones
		if i >= len(historyValue) || v != historyValue[i] {
			return fmt.Errorf("%w: message %d is %+v", errWrongValue, i, v)
		}
	}
	return k.read(ctx, s, id)
}

// source is the database that loaders read. It counts its loads, and takes no time unless load
// does. It returns values of its kind; load, if it is set, returns bytes instead.
type source struct {
	kind  kind
	load  func(ctx context.Context, id string) ([]byte, error)
	loads atomic.Int64
}

// Bytes loads a value of bytes. The caller owns them, as with a database driver.
func (s *source) Bytes(ctx context.Context, id string) ([]byte, error) {
	s.loads.Add(1)
	if s.load != nil {
		return s.load(ctx, id)
	}
	return bytes.Clone(s.kind.bytes), nil
}

// Messages loads a history, which the caller owns.
func (s *source) Messages(context.Context, string) ([]Message, error) {
	s.loads.Add(1)
	return append([]Message(nil), historyValue...), nil
}

// view returns b as a string, without a copy: a library that returns bytes is not charged for
// the interface of this program.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// viewOf returns the bytes of text, without a copy, which must not be modified. Both clients can
// return bytes as well, so users who decode would not pay for a copy.
func viewOf(text string) []byte { return unsafe.Slice(unsafe.StringData(text), len(text)) }

// idOf returns the id with the number n. It has 20 bytes, a usual length.
func idOf(n int64) string {
	digits := strconv.FormatInt(n, 10)
	return "room-000000000000000"[:20-len(digits)] + digits
}

// ids returns the first n ids.
func ids(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = idOf(int64(i))
	}
	return out
}
