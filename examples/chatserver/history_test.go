package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const goodMessage = `{"message_id":1,"chat_id":"A","role":"user","content":"hi","created_at":"2026-01-02T03:04:05Z"}`

func decodeHistory(t *testing.T, stored string) (Conversation, error) {
	t.Helper()
	var c Conversation
	err := conversationCodec{"A"}.Decode([]byte(stored), &c)
	return c, err
}

// Programs in other languages write times in several ways; one without a zone is UTC.
func TestHistory_Times(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"2026-01-02T03:04:05Z":             "2026-01-02T03:04:05Z",
		"2026-01-02T03:04:05.123456Z":      "2026-01-02T03:04:05.123456Z",
		"2026-01-02T03:04:05":              "2026-01-02T03:04:05Z",        // datetime.isoformat()
		"2026-01-02T03:04:05.123456":       "2026-01-02T03:04:05.123456Z", // and with microseconds
		"2026-01-02T03:04:05+00:00":        "2026-01-02T03:04:05Z",
		"2026-01-02T12:04:05.123456+09:00": "2026-01-02T03:04:05.123456Z",
		"2026-01-02T12:04:05+0900":         "2026-01-02T03:04:05Z",
		"2026-01-02 03:04:05":              "2026-01-02T03:04:05Z", // str(datetime)
		"2026-01-02 03:04:05.123456":       "2026-01-02T03:04:05.123456Z",
		"2026-01-02 12:04:05+09:00":        "2026-01-02T03:04:05Z",
		"2026-01-02 03:04:05.123456+00":    "2026-01-02T03:04:05.123456Z", // psql
		"2026-01-02T3:04:05":               "",
		"2026-01-02T03:04:05,123":          "",
		"2026-01-02T03:04":                 "",
		"2026-01-02":                       "",
		"03:04:05":                         "",
		"2026-13-02T03:04:05":              "",
		"9999-12-31T23:59:59-01:00":        "", // of the year 10000, which JSON's times do not have
		"9999-12-31 23:59:59-0100":         "",
		"0000-01-01T00:00:00+01:00":        "",
		"9999-12-31T23:59:59Z":             "9999-12-31T23:59:59Z",
		"yesterday":                        "",
		"":                                 "",
	} {
		c, err := decodeHistory(t, "["+strings.Replace(goodMessage, "2026-01-02T03:04:05Z", text, 1)+"]")
		if want == "" {
			if err == nil || !strings.HasPrefix(err.Error(), "message 0: created_at: ") || text != "" && strings.Contains(err.Error(), text) {
				t.Errorf("%q: %v, want an error without the text", text, err)
			}
			continue
		}
		if err != nil || !c.Messages[0].CreatedAt.Equal(must(time.Parse(time.RFC3339, want))) || !strings.Contains(string(c.encoded), want) {
			t.Errorf("%q: %v, %s; want %s", text, err, c.encoded, want)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A value of another shape, or of another room, is none of the room's.
func TestHistory_Refused(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	with := func(old, new string) string { return "[" + strings.Replace(goodMessage, old, new, 1) + "]" }
	for name, stored := range map[string]string{
		"null":                     `null`,
		"an object":                `{"messages":[]}`,
		"an empty message":         `[{}]`,
		"a null message":           `[null]`,
		"a null after a message":   "[" + goodMessage + ",null]",
		"a text":                   `"` + secret + `"`,
		"a list of texts":          `["` + secret + `"]`,
		"LangChain's messages":     `[{"type":"human","data":{"content":"` + secret + `","additional_kwargs":{}}}]`,
		"OpenAI's messages":        `[{"role":"user","content":"` + secret + `"}]`,
		"another room":             with(`"chat_id":"A"`, `"chat_id":"`+secret+`"`),
		"no room":                  with(`"chat_id":"A",`, ``),
		"a name in upper case":     with(`"role"`, `"ROLE"`),
		"a name with a capital":    with(`"role"`, `"Role"`),
		"a name that folds":        with(`"message_id"`, `"me\u017fsage_id"`),
		"another role":             with(`"user"`, `"`+secret+`"`),
		"content that is a list":   with(`"hi"`, `["`+secret+`"]`),
		"content that is null":     with(`"hi"`, `null`),
		"an id that is a text":     with(`"message_id":1`, `"message_id":"`+secret+`"`),
		"an id of zero":            with(`"message_id":1`, `"message_id":0`),
		"one id twice":             "[" + goodMessage + "," + goodMessage + "]",
		"no time":                  with(`,"created_at":"2026-01-02T03:04:05Z"`, ``),
		"a time that is a number":  with(`"2026-01-02T03:04:05Z"`, `1767323045`),
		"a time that is none":      with(`"2026-01-02T03:04:05Z"`, `"`+secret+`"`),
		"no JSON":                  secret,
		"JSON that is cut":         `[{"content":"` + secret,
		"bytes that are not UTF-8": "[" + strings.Replace(goodMessage, "hi", "\xbe\xc8", 1) + "]",
	} {
		c, err := decodeHistory(t, stored)
		if err == nil {
			t.Errorf("%s: taken for %s", name, c.encoded)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows the value: %v", name, err)
		}
	}
}

// Half of a surrogate pair, as Python's json.dumps writes it, is no text. The error names
// the message.
func TestHistory_LoneSurrogates(t *testing.T) {
	t.Parallel()
	second := strings.Replace(goodMessage, `"message_id":1`, `"message_id":2`, 1)
	for _, content := range []string{`x\ud800`, `\udc00x`, `\ud800\ud800`, `\udc00\ud800`, `\uD83D`} {
		c, err := decodeHistory(t, "["+goodMessage+","+strings.Replace(second, "hi", content, 1)+"]")
		if err == nil || !strings.HasPrefix(err.Error(), "message 1: ") {
			t.Errorf("%s: %s, %v; want an error of message 1", content, c.encoded, err)
		}
	}
	for content, want := range map[string]string{`\ud83d\ude00`: "😀", `\\ud800`: `\ud800`, `\uc548`: "안", "\ufffd": "\ufffd", `\ufffd`: "\ufffd"} {
		if c, err := decodeHistory(t, "["+strings.Replace(goodMessage, "hi", content, 1)+"]"); err != nil || c.Messages[0].Content != want {
			t.Errorf("%s: %v, %v; want %q", content, c.Messages, err, want)
		}
	}
}

// A field that another program has stored with a message is not passed on to clients.
func TestHistory_IsWrittenAnew(t *testing.T) {
	t.Parallel()
	both, err := decodeHistory(t, `[{"ROLE":"system",`+goodMessage[1:len(goodMessage)-1]+`,"Content":"no","Partial":true}]`)
	if err != nil || both.Messages[0].Role != "user" || both.Messages[0].Content != "hi" || both.Messages[0].Partial {
		t.Errorf("a name in two cases: %+v, %v", both.Messages, err)
	}
	c, err := decodeHistory(t, ` [ {"internal_notes":"s3cr3t", `+goodMessage[1:]+` ] `)
	if want := "[" + goodMessage + "]"; err != nil || string(c.encoded) != want {
		t.Errorf("%s, %v; want %s", c.encoded, err, want)
	}
	if c, err = decodeHistory(t, `[]`); err != nil || string(c.encoded) != "[]" {
		t.Errorf("%s, %v; want []", c.encoded, err)
	}
	messages := []Message{{ID: 7, ChatID: "A", Role: "assistant", Content: "안녕 😀", CreatedAt: now(), Partial: true}}
	c, err = newConversation(messages)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := conversationCodec{"A"}.Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := decodeHistory(t, string(stored))
	if err != nil || string(again.encoded) != string(c.encoded) || !again.Messages[0].CreatedAt.Equal(messages[0].CreatedAt) || !again.Messages[0].Partial {
		t.Errorf("%s comes back as %s, %v", stored, again.encoded, err)
	}
}

// A room that would not be read again is not stored, and served from the database.
func TestHistory_StoresOnlyWhatItReads(t *testing.T) {
	t.Parallel()
	good := Message{ID: 7, ChatID: "A", Role: "user", Content: "hi", CreatedAt: now()}
	for name, spoil := range map[string]func(*Message){
		"another role":       func(m *Message) { m.Role = "tool" },
		"another room":       func(m *Message) { m.ChatID = "B" },
		"an id of zero":      func(m *Message) { m.ID = 0 },
		"text in ISO 8859-1": func(m *Message) { m.Content = "caf\xe9" },
	} {
		m := good
		spoil(&m)
		if text, err := (conversationCodec{"A"}).Encode(must(newConversation([]Message{m}))); err == nil {
			t.Errorf("%s: stored %s", name, text)
		}
	}
	if _, err := (conversationCodec{"A"}).Encode(must(newConversation([]Message{good}))); err != nil {
		t.Error(err)
	}
}

// A Python service that shares the SQLite file writes times as str has them.
func TestHistory_TimesInTheDatabase(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory", "DATABASE_URL": filepath.Join(t.TempDir(), "chat.db")})
	room := c.room()
	if _, err := c.repo.db.ExecContext(t.Context(), `INSERT INTO messages (chat_id, role, content, created_at) VALUES ($1, 'user', 'x', '2026-01-02 03:04:05.5')`, room); err != nil {
		t.Fatal(err)
	}
	want := time.Date(2026, 1, 2, 3, 4, 5, 5e8, time.UTC)
	for _, outcome := range []string{"MISS", "HIT"} {
		if got := c.history(room, outcome); len(got) != 1 || !got[0].CreatedAt.Equal(want) {
			t.Errorf("%s: %+v", outcome, got)
		}
	}
}

func BenchmarkHistory_Decode(b *testing.B) {
	var messages []Message
	for i := range 50 {
		messages = append(messages, Message{ID: int64(i + 1), ChatID: "A", Role: "user", Content: strings.Repeat("hello ", 20), CreatedAt: now()})
	}
	stored := must(json.Marshal(messages))
	b.ReportAllocs()
	for b.Loop() {
		var c Conversation
		if err := (conversationCodec{"A"}).Decode(stored, &c); err != nil {
			b.Fatal(err)
		}
	}
}
