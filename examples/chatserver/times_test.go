package main

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Programs that share the SQLite file write times in more ways than they cache them. A time
// that cannot be read does not make the room unreadable: its message gets the time of the
// message before, and the log names it.
func TestTimes_InTheDatabase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "chat.db")
	s := startChatserver(t, map[string]string{"CACHE_TYPE": "memory", "DATABASE_URL": path})
	c := &client{t: t, url: s.url}
	db, err := openDatabase(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const before = "2026-01-01T00:00:00Z"
	for _, row := range []struct {
		stored any
		want   string // "" is unreadable
	}{
		{"2026-01-02T03:04", "2026-01-02T03:04:00Z"},
		{"2026-01-02 03:04", "2026-01-02T03:04:00Z"},
		{"2026-01-02T12:04+09:00", "2026-01-02T03:04:00Z"},
		{"2026-01-02T03:04Z", "2026-01-02T03:04:00Z"},
		{"2026-01-02", "2026-01-02T00:00:00Z"},
		{"2026-01-02 03:04:05 +0000", "2026-01-02T03:04:05Z"},
		{"2026-01-02T12:04:05.5 +09:00", "2026-01-02T03:04:05.5Z"},
		{"2026-01-02 03:04:05 +00", "2026-01-02T03:04:05Z"},
		{"2026-01-02 03:04:05 Z", "2026-01-02T03:04:05Z"},
		{"2026-01-02 03:04:05 UTC", "2026-01-02T03:04:05Z"},
		{"2026-01-02 12:04:05.25 +0900 KST", "2026-01-02T03:04:05.25Z"}, // time.Time.String()
		{1767323045, "2026-01-02T03:04:05Z"},
		{1767323045.5, "2026-01-02T03:04:05.5Z"},
		{"1767323045", "2026-01-02T03:04:05Z"},
		{[]byte("2026-01-02T03:04:05Z"), "2026-01-02T03:04:05Z"},
		{"0000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"},
		{"9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"},
		{"9999-12-31T23:59:59-01:00", ""},
		{"0000-01-01T00:00:00+01:00", ""},
		{int64(1767323045123), ""}, // milliseconds would be a year of five digits
		{math.MaxInt64, ""},
		{1e300, ""},
		{-1e17, ""},
		{"", ""},
		{" ", ""},
		{"2026", ""},
		{"20260102", ""},
		{"2026-01-02T03", ""},
		{"2026-01-02T03:04:05  +0000", ""},
		{"2026-01-02 03:04:05 EST", ""}, // some zone's time, and not UTC
		{"2026-13-02T03:04", ""},
		{"secret", ""},
		{[]byte{0xff}, ""},
	} {
		room := c.room()
		c.history(room, "MISS")
		for _, at := range []any{before, row.stored} {
			if _, err := db.ExecContext(t.Context(), `INSERT INTO messages (chat_id, role, content, created_at) VALUES ($1, 'user', 'x', $2)`, room, at); err != nil {
				t.Fatal(err)
			}
		}
		c.say(room, "the next") // which invalidates
		want := row.want
		if want == "" {
			want = before
		}
		for _, outcome := range []string{"MISS", "HIT"} {
			got := c.history(room, outcome)
			if len(got) != 3 || got[1].CreatedAt.Format(time.RFC3339Nano) != want {
				t.Errorf("%v: %s: %+v, want %s", row.stored, outcome, got, want)
			}
		}
	}
	room := c.room() // whose first message has no time before it
	if _, err := db.ExecContext(t.Context(), `INSERT INTO messages (chat_id, role, content, created_at) VALUES ($1, 'user', 'x', '')`, room); err != nil {
		t.Fatal(err)
	}
	got := c.history(room, "MISS")
	if len(got) != 1 || !got[0].CreatedAt.IsZero() {
		t.Fatalf("%+v", got)
	}
	for _, at := range []string{"secret", "2026-01-02"} {
		if _, err := db.ExecContext(t.Context(), `INSERT INTO chats (chat_id, user_id, title, created_at) VALUES ($1, 'someone', 'x', $2)`, "room "+at, at); err != nil {
			t.Fatal(err)
		}
	}
	var chats []Chat
	if err := json.Unmarshal(c.want(200, "GET", "/api/v1/chats?user_id=someone", "").data, &chats); err != nil || len(chats) != 2 {
		t.Errorf("%v, %+v", err, chats)
	}
	s.stop()
	log := s.log.String()
	for _, want := range []string{`table=messages ids=[` + fmt.Sprint(got[0].ID) + `]`, `table=chats ids="[room secret]"`} {
		if strings.Count(log, want) != 1 {
			t.Errorf("%d lines of the log have %s", strings.Count(log, want), want)
		}
	}
	if strings.Contains(strings.ReplaceAll(log, "room secret", ""), "secret") {
		t.Error("the log shows a time that cannot be read")
	}
}

// Columns of other types give times as numbers, and PostgreSQL has years that JSON has
// not. None of them ends a row's Scan.
func TestTimes_Scan(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		from any
		want string
	}{
		{int64(1767323045), "2026-01-02T03:04:05Z"},
		{int64(0), "1970-01-01T00:00:00Z"},
		{int64(-1), "1969-12-31T23:59:59Z"},
		{1767323045.25, "2026-01-02T03:04:05.25Z"},
		{-0.5, "1969-12-31T23:59:59.5Z"},
		{time.Date(2026, 1, 2, 12, 4, 5, 0, time.FixedZone("", 9*3600)), "2026-01-02T03:04:05Z"},
		{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), ""},
		{time.Date(-43, 3, 15, 0, 0, 0, 0, time.UTC), ""},
		{"infinity", ""}, // as the driver gives PostgreSQL's
		{math.NaN(), ""},
		{math.Inf(-1), ""},
		{int64(math.MinInt64), ""},
		{true, ""},
		{nil, ""},
	} {
		got := storedTime{Time: now()}
		if err := got.Scan(row.from); err != nil || (got.err == nil) != (row.want != "") {
			t.Errorf("%v: %v, %v", row.from, err, got.err)
		}
		if row.want == "" && !got.IsZero() || row.want != "" && got.Format(time.RFC3339Nano) != row.want {
			t.Errorf("%v: %v, want %s", row.from, got.Time, row.want)
		}
	}
}
