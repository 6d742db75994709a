package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"strings"
	"time"

	_ "modernc.org/sqlite"

	"github.com/cacheaside/aside"
)

// Chat is a room.
type Chat struct {
	ID        string    `json:"chat_id"`
	UserID    string    `json:"user_id"`
	Title     string    `json:"title"`
	CreatedAt time.Time `json:"created_at"`
}

// Message is one of a room's conversation.
type Message struct {
	ID        int64     `json:"message_id"`
	ChatID    string    `json:"chat_id"`
	Role      string    `json:"role"`
	Content   string    `json:"content"`
	CreatedAt time.Time `json:"created_at"`
}

// Repository keeps chats and messages in the database, and conversations in the
// cache.
type Repository struct {
	db    *sql.DB
	cache aside.Cache
}

const schema = `
CREATE TABLE IF NOT EXISTS chats (
	chat_id TEXT PRIMARY KEY,
	user_id TEXT NOT NULL,
	title TEXT NOT NULL,
	created_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS chats_by_user ON chats (user_id, created_at);
CREATE TABLE IF NOT EXISTS messages (
	message_id INTEGER PRIMARY KEY AUTOINCREMENT,
	chat_id TEXT NOT NULL REFERENCES chats (chat_id) ON DELETE CASCADE,
	role TEXT NOT NULL,
	content TEXT NOT NULL,
	created_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_by_chat ON messages (chat_id, message_id);`

// openDatabase opens what DATABASE_URL names: sqlite://path, or a path. It makes
// the tables that are missing.
func openDatabase(ctx context.Context, databaseURL string) (*sql.DB, error) {
	path := strings.TrimPrefix(databaseURL, "sqlite://")
	if strings.Contains(path, "://") {
		scheme, _, _ := strings.Cut(path, "://")
		return nil, fmt.Errorf("DATABASE_URL: the scheme %q is not known; a path or sqlite://path is accepted", scheme)
	}
	query := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(NORMAL)", "foreign_keys(1)"}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	if _, err := db.ExecContext(ctx, schema); err != nil {
		db.Close()
		return nil, fmt.Errorf("DATABASE_URL: opening the database: %w", err)
	}
	return db, nil
}

func (r *Repository) CreateChat(ctx context.Context, userID, title string) (Chat, error) {
	c := Chat{ID: strings.ToLower(rand.Text()), UserID: userID, Title: title, CreatedAt: now()}
	_, err := r.db.ExecContext(ctx, `INSERT INTO chats (chat_id, user_id, title, created_at) VALUES (?, ?, ?, ?)`,
		c.ID, c.UserID, c.Title, c.CreatedAt.Format(time.RFC3339Nano))
	return c, err
}

// Chats reads a user's rooms from the database, the newest first. They are not
// cached: see the guide.
func (r *Repository) Chats(ctx context.Context, userID string) ([]Chat, error) {
	rows, err := r.db.QueryContext(ctx, `SELECT chat_id, user_id, title, created_at FROM chats WHERE user_id = ? ORDER BY created_at DESC, rowid DESC`, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	chats := []Chat{}
	for rows.Next() {
		var c Chat
		var at string
		if err := rows.Scan(&c.ID, &c.UserID, &c.Title, &at); err != nil {
			return nil, err
		}
		if c.CreatedAt, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return nil, err
		}
		chats = append(chats, c)
	}
	return chats, rows.Err()
}

// Messages returns a room's conversation, the oldest first, or aside.ErrNotFound
// when there is no such room.
func (r *Repository) Messages(ctx context.Context, chatID string) ([]Message, error) {
	return aside.GetOrLoad(ctx, r.cache, aside.ChatMessages(chatID), func(ctx context.Context) ([]Message, error) {
		return r.selectMessages(ctx, chatID)
	})
}

func (r *Repository) selectMessages(ctx context.Context, chatID string) ([]Message, error) {
	if err := r.exists(ctx, chatID); err != nil {
		return nil, err
	}
	rows, err := r.db.QueryContext(ctx, `SELECT message_id, chat_id, role, content, created_at FROM messages WHERE chat_id = ? ORDER BY message_id`, chatID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	messages := []Message{}
	for rows.Next() {
		var m Message
		var at string
		if err := rows.Scan(&m.ID, &m.ChatID, &m.Role, &m.Content, &at); err != nil {
			return nil, err
		}
		if m.CreatedAt, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	return messages, rows.Err()
}

func (r *Repository) exists(ctx context.Context, chatID string) error {
	var one int
	err := r.db.QueryRowContext(ctx, `SELECT 1 FROM chats WHERE chat_id = ?`, chatID).Scan(&one)
	if err == sql.ErrNoRows {
		return fmt.Errorf("chat %q: %w", chatID, aside.ErrNotFound)
	}
	return err
}

// AddMessage saves a message and invalidates its room's conversation.
func (r *Repository) AddMessage(ctx context.Context, chatID, role, content string) (Message, error) {
	m := Message{ChatID: chatID, Role: role, Content: content, CreatedAt: now()}
	err := aside.Update(ctx, r.cache, func(ctx context.Context) error {
		res, err := r.db.ExecContext(ctx,
			`INSERT INTO messages (chat_id, role, content, created_at) SELECT chat_id, ?, ?, ? FROM chats WHERE chat_id = ?`,
			role, content, m.CreatedAt.Format(time.RFC3339Nano), chatID)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return fmt.Errorf("chat %q: %w", chatID, aside.ErrNotFound)
		}
		m.ID, err = res.LastInsertId()
		return err
	}, aside.ChatMessages(chatID))
	return m, err
}

// DeleteChat removes a room with all its messages.
func (r *Repository) DeleteChat(ctx context.Context, chatID string) error {
	return aside.Update(ctx, r.cache, func(ctx context.Context) error {
		res, err := r.db.ExecContext(ctx, `DELETE FROM chats WHERE chat_id = ?`, chatID)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return fmt.Errorf("chat %q: %w", chatID, aside.ErrNotFound)
		}
		return nil
	}, aside.ChatMessages(chatID), aside.GenerationKey(chatID))
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
