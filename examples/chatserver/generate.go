package main

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cacheaside/aside"
)

// saveTimeout bounds the write of a generated reply to the database.
const saveTimeout = 10 * time.Second

// maxReply is the size of the largest reply, in bytes. A model that does not stop is cut
// there.
const maxReply = 1 << 20

// generate streams a reply as server-sent events: token events, then done, cancelled or
// error. The last event is sent once the reply is saved, perhaps in part, and the room is
// free for the next reply.
//
// The room is claimed only while the model generates and the reply is saved. A slow client
// does not prolong that: its request's body was read before, and another goroutine writes
// the events.
func (s *Server) generate(w http.ResponseWriter, r *http.Request) {
	chatID := r.PathValue("chat_id")
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	defer context.AfterFunc(s.stopping, stop)()
	gen, err := s.generations.Start(ctx, chatID)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	free := s.replies.began(chatID, gen.Finish)
	defer free()
	conversation, _, err := s.conversation(gen.Context(), chatID) // read after the claim, so it has the last reply
	if err != nil {
		free()
		s.fail(w, r, err)
		return
	}

	stream := newEvents(w, stop)
	defer stream.end()
	defer free() // runs before stream.end, which waits for the client
	var reply strings.Builder
	for token, e := range s.responder.Respond(gen.Context(), forModel(conversation.Messages)) {
		if err = e; err != nil {
			break
		}
		token = strings.ReplaceAll(token, "\x00", "") // PostgreSQL has no U+0000 in text
		if reply.Len()+len(token) > maxReply {
			err = &ModelError{"length", "the reply became longer than this server takes", nil}
			break
		}
		reply.WriteString(token)
		stream.send("token", struct {
			Content string `json:"content"`
		}{token})
		if gen.Context().Err() != nil {
			break
		}
	}
	cancelled := gen.Context().Err() != nil
	saved, saveErr := s.saveReply(gen.Context(), chatID, reply.String(), cancelled || err != nil)
	if errors.Is(saveErr, aside.ErrNotFound) { // the room was deleted meanwhile
		cancelled, saveErr = true, nil
	}
	free()
	switch {
	case saveErr != nil || err != nil && !cancelled:
		s.log.ErrorContext(r.Context(), "generation failed", "chat_id", chatID, "err", err, "save_err", saveErr)
		stream.send("error", explain(err, saveErr, saved))
	case cancelled:
		stream.send("cancelled", saved)
	default:
		stream.send("done", saved)
	}
}

// forModel returns the conversation without the partial replies that were tried again, which
// are those that no user's message follows before the next reply. The model is asked for a
// whole reply in their place. Any other partial reply stays, as a user has answered it.
func forModel(messages []Message) []Message {
	var out []Message
	answered := false
	for _, m := range slices.Backward(messages) {
		if m.Partial && !answered {
			continue
		}
		switch m.Role {
		case "user":
			answered = true
		case "assistant":
			answered = false
		}
		out = append(out, m)
	}
	slices.Reverse(out)
	return out
}

// broken is the data of an error event: why a reply is not whole.
type broken struct {
	Kind    string   `json:"kind"` // a ModelError's, or "server"
	Message string   `json:"message"`
	Saved   *Message `json:"saved"` // the partial reply, or null if nothing was saved
}

// explain shows a client why a reply is not whole. Only a ModelError has a text for
// clients; any other error may show hosts or keys, and is in the log alone.
func explain(err, saveErr error, saved *Message) broken {
	var m *ModelError
	if saveErr == nil && errors.As(err, &m) {
		return broken{m.Kind, m.Message, saved}
	}
	return broken{"server", "the reply could not be completed or saved", saved}
}

// saveReply saves a reply as the assistant's message, unless it is empty. It does so also
// after ctx has ended, since a cancelled reply is kept.
func (s *Server) saveReply(ctx context.Context, chatID, reply string, partial bool) (*Message, error) {
	reply = strings.TrimSpace(reply)
	if reply == "" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	m, err := s.repo.AddReply(ctx, chatID, reply, partial)
	if err != nil {
		return nil, err
	}
	return &m, nil
}
