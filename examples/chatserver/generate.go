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

// saveTimeout is how long saving a reply may take once it was generated.
const saveTimeout = 10 * time.Second

// maxReply is the largest reply, in bytes. A model that does not end is cut there.
const maxReply = 1 << 20

// generate streams a reply as server-sent events: token events, then done, cancelled or
// error. The room is claimed as long as the model talks and its reply is saved, which
// waits for no client: the request's body was read before, and another goroutine writes
// the events. The last event comes when the reply is saved, also in part, and the room
// is free for the next.
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
	conversation, _, err := s.conversation(gen.Context(), chatID) // with the reply before
	if err != nil {
		free()
		s.fail(w, r, err)
		return
	}

	stream := newEvents(w, stop)
	defer stream.end()
	defer free() // before that waits for the client
	var reply strings.Builder
	for token, e := range s.responder.Respond(gen.Context(), forModel(conversation.Messages)) {
		if err = e; err != nil {
			break
		}
		token = strings.ReplaceAll(token, "\x00", "") // which PostgreSQL refuses
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
	if errors.Is(saveErr, aside.ErrNotFound) { // the room was deleted
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

// forModel is the conversation without the partial replies that were tried again: those
// that no message of a user follows before the next reply. The model is asked for a
// whole reply in their place. Any other partial reply is what a user has answered.
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

// broken is what the reader is told of a reply that is not whole.
type broken struct {
	Kind    string   `json:"kind"` // a ModelError's, or "server"
	Message string   `json:"message"`
	Saved   *Message `json:"saved"` // what there is of the reply
}

func explain(err, saveErr error, saved *Message) broken {
	var m *ModelError
	if saveErr == nil && errors.As(err, &m) {
		return broken{m.Kind, m.Message, saved}
	}
	return broken{"server", "the reply could not be generated or saved to its end", saved}
}

// saveReply saves what there is of a reply, if anything, as the assistant's.
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
