package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/cacheaside/aside"
)

// Conversation is the messages of a room, the oldest first. It is never modified. Its
// JSON stands beside it, so that a request is answered without encoding, which for a
// long conversation takes most of a hit's time. That JSON is always of this program's
// own making: of the messages, and of nothing else that was stored with them.
type Conversation struct {
	Messages []Message
	encoded  []byte
}

func newConversation(messages []Message) (c Conversation, err error) {
	c.Messages = messages
	c.encoded, err = json.Marshal(messages)
	return c, err
}

// conversations returns the key of a room's conversation: that of aside.ChatMessages,
// with values that all readers share. Other programs store values under it too, so its
// codec knows the room, and takes nothing for a conversation of the room that is none.
func conversations(chatID string) aside.Key {
	return aside.Keyspace{Name: "chat_messages", TTL: 30 * time.Minute, Share: true, Codec: conversationCodec{chatID}}.Key(chatID)
}

// conversationCodec is the codec of one room's conversation. To decode, check and encode
// again 50 messages takes some 200 µs, once for each change of what is stored: a hit on
// the same bytes finds the conversation as it was decoded before.
type conversationCodec struct{ chatID string }

func (conversationCodec) Encode(value any) ([]byte, error) {
	c, ok := value.(Conversation)
	if !ok {
		return nil, fmt.Errorf("want a Conversation, not a %T", value)
	}
	return bytes.Clone(c.encoded), nil
}

// Decode's errors say where a value is wrong, and nothing of what stands there.
func (codec conversationCodec) Decode(data []byte, ptr any) error {
	if !utf8.Valid(data) {
		return errors.New("want UTF-8")
	}
	var stored []*storedMessage
	if err := json.Unmarshal(data, &stored); err != nil {
		return located(err)
	}
	if stored == nil {
		return errors.New("want a list of messages, not null")
	}
	messages := make([]Message, len(stored))
	for i, s := range stored {
		m, err := s.message(codec.chatID)
		if err == nil && i > 0 && m.ID <= messages[i-1].ID {
			err = errors.New("message_id: want one larger than that of the message before")
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

// storedMessage is a message as programs store it. A field that is missing is nil.
type storedMessage struct {
	ID        *int64  `json:"message_id"`
	ChatID    *string `json:"chat_id"`
	Role      *string `json:"role"`
	Content   *string `json:"content"`
	CreatedAt *string `json:"created_at"`
	Partial   bool    `json:"partial"`
}

// message checks a message of the room.
func (s *storedMessage) message(chatID string) (m Message, err error) {
	switch {
	case s == nil:
		return m, errors.New("want a message, not null")
	case s.ID == nil || *s.ID <= 0:
		return m, errors.New("message_id: want a number from 1")
	case s.ChatID == nil || *s.ChatID != chatID:
		return m, errors.New("chat_id: want that of the room")
	case s.Role == nil || !isRole(*s.Role):
		return m, errors.New("role: want user, assistant or system")
	case s.Content == nil:
		return m, errors.New("content: want a text")
	case s.CreatedAt == nil:
		return m, errNotTime
	}
	m = Message{ID: *s.ID, ChatID: *s.ChatID, Role: *s.Role, Content: *s.Content, Partial: s.Partial}
	m.CreatedAt, err = parseTime(*s.CreatedAt)
	return m, err
}

func isRole(role string) bool { return role == "user" || role == "assistant" || role == "system" }

var errNotTime = errors.New("created_at: want a time in RFC 3339, with or without its zone")

// timeLayouts are how programs write times: as RFC 3339 has it, and as Python's
// isoformat and str do, with or without a zone. A fraction of a second may follow the
// seconds in each.
var timeLayouts = []string{
	time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04:05Z0700",
	"2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05", "2006-01-02 15:04:05Z0700",
}

// parseTime takes a time without a zone for UTC.
func parseTime(text string) (time.Time, error) {
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errNotTime
}

// located says where JSON is wrong, without the characters that stand there, which
// encoding/json's own texts have.
func located(err error) error {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("want JSON: wrong at byte %d", syntax.Offset)
	case errors.As(err, &wrong):
		return fmt.Errorf("want a %s at byte %d, field %q", wrong.Type, wrong.Offset, wrong.Field)
	}
	return errors.New("want a list of messages")
}
