-- +goose Up
CREATE TABLE chats (
	chat_id TEXT PRIMARY KEY,
	user_id TEXT NOT NULL,
	title TEXT NOT NULL,
	created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX chats_by_user ON chats (user_id, created_at);
CREATE TABLE messages (
	message_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	chat_id TEXT NOT NULL REFERENCES chats (chat_id) ON DELETE CASCADE,
	role TEXT NOT NULL,
	content TEXT NOT NULL,
	created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX messages_by_chat ON messages (chat_id, message_id);
