package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cacheaside/aside"
)

// Chat is a room.
type Chat struct {
	ID        string    `json:"chat_id"`
	UserID    string    `json:"user_id"`
	Title     string    `json:"title"`
	CreatedAt time.Time `json:"created_at"`
}

// Message is a message of a room's conversation.
type Message struct {
	ID        int64     `json:"message_id"`
	ChatID    string    `json:"chat_id"`
	Role      string    `json:"role"`
	Content   string    `json:"content"`
	CreatedAt time.Time `json:"created_at"`
	Partial   bool      `json:"partial,omitempty"` // whether it is a reply that was cut off
}

// Repository reads and writes chats and messages. The database is the source of truth;
// conversations are cached, as they are large and read often.
type Repository struct {
	db    *sql.DB
	cache aside.Cache
	delay time.Duration // see settings.databaseDelay
}

// CreateChat adds a room. It invalidates nothing, as the room's id is new and the list of
// rooms is not cached.
func (r *Repository) CreateChat(ctx context.Context, userID, title string) (Chat, error) {
	c := Chat{ID: strings.ToLower(rand.Text()), UserID: userID, Title: title, CreatedAt: now()}
	r.wait(ctx)
	_, err := r.db.ExecContext(ctx, `INSERT INTO chats (chat_id, user_id, title, created_at) VALUES ($1, $2, $3, $4)`,
		c.ID, c.UserID, c.Title, c.CreatedAt.Format(stamp))
	return c, err
}

// Chats reads a user's rooms from the database, the newest first. They are not cached: the
// list is small and changes often.
func (r *Repository) Chats(ctx context.Context, userID string) ([]Chat, error) {
	r.wait(ctx)
	rows, err := r.db.QueryContext(ctx, `SELECT chat_id, user_id, title, created_at FROM chats WHERE user_id = $1 ORDER BY created_at DESC, chat_id`, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	chats := []Chat{}
	var bad unreadable
	defer func() { bad.log(ctx, "chats") }()
	for rows.Next() {
		var c Chat
		var at storedTime
		if err := rows.Scan(&c.ID, &c.UserID, &c.Title, &at); err != nil {
			return nil, fmt.Errorf("chat %q: %w", c.ID, err)
		}
		c.CreatedAt = at.Time
		bad.add(c.ID, at.err)
		chats = append(chats, c)
	}
	return chats, rows.Err()
}

// Conversation returns a room's conversation, or aside.ErrNotFound when there is no such
// room.
//
// All writes of this program invalidate the conversation, so its keyspace has no
// RefreshAfter, which would cost a second key per room in Redis. Where another program
// writes to the database without invalidating, CACHE_REFRESH_CHAT_MESSAGES sets the age
// at which a conversation is loaded again.
func (r *Repository) Conversation(ctx context.Context, chatID string) (Conversation, error) {
	return aside.GetOrLoad(ctx, r.cache, conversations(chatID), func(ctx context.Context) (Conversation, error) {
		messages, err := r.selectMessages(ctx, chatID)
		if err != nil {
			return Conversation{}, err
		}
		return newConversation(messages)
	})
}

// selectMessages is the loader of Conversation. It must read the primary database: a replica
// that lags would return a conversation from before the write that invalidated it.
func (r *Repository) selectMessages(ctx context.Context, chatID string) ([]Message, error) {
	defer timeLoad(ctx)()
	r.wait(ctx)
	if err := r.exists(ctx, chatID); err != nil {
		return nil, err
	}
	rows, err := r.db.QueryContext(ctx, `SELECT message_id, chat_id, role, content, created_at, partial FROM messages WHERE chat_id = $1 ORDER BY message_id`, chatID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	messages := []Message{} // not nil, whose JSON is null: an empty conversation is a hit
	var bad unreadable
	defer func() { bad.log(ctx, "messages") }()
	for rows.Next() {
		var m Message
		var at storedTime
		if err := rows.Scan(&m.ID, &m.ChatID, &m.Role, &m.Content, &at, &m.Partial); err != nil {
			return nil, fmt.Errorf("message %d: %w", m.ID, err)
		}
		m.CreatedAt = at.Time
		if at.err != nil && len(messages) > 0 { // the best guess: the message came after the one before
			m.CreatedAt = messages[len(messages)-1].CreatedAt
		}
		bad.add(m.ID, at.err)
		messages = append(messages, m)
	}
	return messages, rows.Err()
}

func (r *Repository) exists(ctx context.Context, chatID string) error {
	var one int
	err := r.db.QueryRowContext(ctx, `SELECT 1 FROM chats WHERE chat_id = $1`, chatID).Scan(&one)
	return orNotFound(chatID, err)
}

func orNotFound(chatID string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("chat %q: %w", chatID, aside.ErrNotFound)
	}
	return err
}

// Newest returns the id of a room's last message, or 0. It reads the database, once a second
// for each open page, so that the page knows when to read the conversation again.
func (r *Repository) Newest(ctx context.Context, chatID string) (messageID int64, err error) {
	err = r.db.QueryRowContext(ctx, `SELECT coalesce(max(message_id), 0) FROM messages WHERE chat_id = $1`, chatID).Scan(&messageID)
	return messageID, err
}

// AddMessage saves a message and invalidates its room's conversation.
func (r *Repository) AddMessage(ctx context.Context, chatID, role, content string) (Message, error) {
	return r.add(ctx, Message{ChatID: chatID, Role: role, Content: content})
}

// AddReply saves a reply as AddMessage does. A partial reply was cut off.
func (r *Repository) AddReply(ctx context.Context, chatID, content string, partial bool) (Message, error) {
	return r.add(ctx, Message{ChatID: chatID, Role: "assistant", Content: content, Partial: partial})
}

// add inserts a message within Update, which blocks the conversation's key before the insert
// and deletes it afterwards. An Invalidate after the insert would not do: if this process
// died in between, the old conversation would be served until its TTL ends.
func (r *Repository) add(ctx context.Context, m Message) (Message, error) {
	m.CreatedAt = now()
	err := aside.Update(ctx, r.cache, func(ctx context.Context) error {
		r.wait(ctx)
		err := r.db.QueryRowContext(ctx, `INSERT INTO messages (chat_id, role, content, created_at, partial)
			SELECT chat_id, $2, $3, $4, $5 FROM chats WHERE chat_id = $1 RETURNING message_id`,
			m.ChatID, m.Role, m.Content, m.CreatedAt.Format(stamp), m.Partial).Scan(&m.ID)
		if err != nil && errors.Is(r.exists(ctx, m.ChatID), aside.ErrNotFound) {
			err = sql.ErrNoRows // PostgreSQL reports a foreign key violation if the room is deleted at the same time
		}
		return orNotFound(m.ChatID, err)
	}, conversations(m.ChatID))
	return m, err
}

// DeleteChat removes a room with all its messages, and invalidates its conversation and its
// generation.
func (r *Repository) DeleteChat(ctx context.Context, chatID string) error {
	return aside.Update(ctx, r.cache, func(ctx context.Context) error {
		r.wait(ctx)
		res, err := r.db.ExecContext(ctx, `DELETE FROM chats WHERE chat_id = $1`, chatID)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return fmt.Errorf("chat %q: %w", chatID, aside.ErrNotFound)
		}
		return nil
	}, conversations(chatID), aside.GenerationKey(chatID))
}

// wait makes the database as slow as DATABASE_DELAY says.
func (r *Repository) wait(ctx context.Context) {
	if r.delay > 0 {
		select {
		case <-time.After(r.delay):
		case <-ctx.Done():
		}
	}
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
