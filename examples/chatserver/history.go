package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cacheaside/aside"
)

// Conversation has the messages of a room, the oldest first. It is never modified.
//
// Its JSON is kept with it, so that a hit is answered without encoding, which for a long
// conversation takes most of a hit's time. This program has always encoded that JSON itself,
// from the messages: fields that another program stored with them are not passed on.
type Conversation struct {
	Messages []Message
	encoded  []byte
}

func newConversation(messages []Message) (c Conversation, err error) {
	c.Messages = messages
	c.encoded, err = json.Marshal(messages)
	return c, err
}

// conversations returns the key of a room's conversation. It is the key of
// aside.ChatMessages, with values that all readers share. Other programs store values under
// it too, so the codec knows the room and refuses a value that is not its conversation.
func conversations(chatID string) aside.Key {
	return aside.Keyspace{Name: "chat_messages", TTL: 30 * time.Minute, Share: true, Codec: conversationCodec{chatID}}.Key(chatID)
}

// conversationCodec is the codec of one room's conversation. To decode, check and encode
// again 50 messages takes some 200 µs, but only after the stored bytes have changed: a hit
// on the same bytes takes the conversation as it was decoded before.
type conversationCodec struct{ chatID string }

func (codec conversationCodec) Encode(value any) ([]byte, error) {
	c, ok := value.(Conversation)
	if !ok {
		return nil, fmt.Errorf("want a Conversation, not a %T", value)
	}
	for i, m := range c.Messages { // store nothing that Decode would refuse
		if err := m.check(codec.chatID, before(c.Messages, i)); err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
	}
	return bytes.Clone(c.encoded), nil
}

// before returns the id of the message before the one at i, or 0.
func before(messages []Message, i int) int64 {
	if i == 0 {
		return 0
	}
	return messages[i-1].ID
}

// Decode returns errors that say where a value is wrong. They show nothing of the value,
// which may be private, since the cache logs them.
func (codec conversationCodec) Decode(data []byte, ptr any) error {
	var stored []*storedMessage
	// Not aside.JSON, which takes "Role" for role, as encoding/json does. Of a name that
	// comes twice both take the last value, as Python does.
	if jsonv2.Unmarshal(data, &stored, jsontext.AllowDuplicateNames(true)) != nil {
		return refusal(data)
	}
	if stored == nil {
		return errors.New("want a list of messages, not null")
	}
	messages := make([]Message, len(stored))
	for i, s := range stored {
		m, err := s.message()
		if err == nil {
			err = m.check(codec.chatID, before(messages, i))
		}
		if err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		messages[i] = m
	}
	c, err := newConversation(messages)
	*ptr.(*Conversation) = c
	return err
}

// refusal says why data does not decode, without showing any of it.
func refusal(data []byte) error {
	if err := aside.JSON.Decode(data, new([]*storedMessage)); err != nil {
		return err
	}
	var messages []json.RawMessage
	_ = json.Unmarshal(data, &messages) // aside.JSON has just decoded it
	if i := slices.IndexFunc(messages, func(m json.RawMessage) bool { return !isText(m) }); i >= 0 {
		return fmt.Errorf("message %d: want text: both halves of each surrogate pair", i)
	}
	return errors.New("want a list of messages in JSON")
}

// storedMessage is a message as programs store it. A missing field is nil. A name in another
// case is another field, as in Python and JavaScript, and is ignored.
type storedMessage struct {
	ID        *int64  `json:"message_id"`
	ChatID    *string `json:"chat_id"`
	Role      *string `json:"role"`
	Content   *string `json:"content"`
	CreatedAt *string `json:"created_at"`
	Partial   bool    `json:"partial"`
}

// message returns the message, or an error that names the first field that is missing.
func (s *storedMessage) message() (m Message, err error) {
	switch {
	case s == nil:
		return m, errors.New("want a message, not null")
	case s.ID == nil:
		return m, errors.New("message_id is missing")
	case s.ChatID == nil:
		return m, errors.New("chat_id is missing")
	case s.Role == nil:
		return m, errors.New("role is missing")
	case s.Content == nil:
		return m, errors.New("content is missing")
	case s.CreatedAt == nil:
		return m, errors.New("created_at is missing")
	}
	m = Message{ID: *s.ID, ChatID: *s.ChatID, Role: *s.Role, Content: *s.Content, Partial: s.Partial}
	if m.CreatedAt, err = parseTime(*s.CreatedAt); err != nil {
		err = fmt.Errorf("created_at: %w", err)
	}
	return m, err
}

// check returns an error unless m is a valid message of the room with an id larger than
// before.
func (m Message) check(chatID string, before int64) error {
	switch {
	case m.ID <= before:
		return errors.New("message_id: want one larger than 0 and than that of the message before")
	case m.ChatID != chatID:
		return errors.New("chat_id: want that of the room")
	case m.Role != "user" && m.Role != "assistant" && m.Role != "system":
		return errors.New("role: want user, assistant or system")
	case !utf8.ValidString(m.Content):
		return errors.New("content: want UTF-8")
	}
	return nil
}

// timeForm matches the times of RFC 3339, of Python's isoformat and str, of SQLite and of
// PostgreSQL, with or without a zone.
var timeForm = regexp.MustCompile(`^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d(:?\d\d)?)?$`)

var errNotTime = errors.New("want a time in RFC 3339, with or without its zone")

// parseTime takes a time without a zone for UTC. The year must be from 0 to 9999 in UTC, as
// time.Time has no JSON for others. Its error does not repeat the text.
func parseTime(text string) (time.Time, error) {
	t, err := readTime(text)
	if err == nil && (t.Year() < 0 || t.Year() > 9999) {
		return time.Time{}, errNotTime
	}
	return t, err
}

func readTime(text string) (t time.Time, err error) {
	if t.UnmarshalText([]byte(text)) == nil { // the common form, RFC 3339: quick and strict
		return t.UTC(), nil
	}
	if !timeForm.MatchString(text) {
		return time.Time{}, errNotTime
	}
	text = strings.Replace(text, " ", "T", 1)
	for _, zone := range []string{"", "Z07:00", "Z0700", "Z07"} {
		if t, err := time.Parse("2006-01-02T15:04:05"+zone, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errNotTime
}
