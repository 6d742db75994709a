package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/cacheaside/aside"
)

// saveTimeout is how long saving a reply may take once it was generated.
const saveTimeout = 10 * time.Second

// generate streams a reply as server-sent events: token events, then done,
// cancelled or error. What was generated is saved, also when it was cancelled or
// the client has left.
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
	defer gen.Finish()
	conversation, _, err := s.conversation(gen.Context(), chatID) // with the reply before
	if err != nil {
		s.fail(w, r, err)
		return
	}

	stream := newEvents(w)
	defer stream.end()
	var reply strings.Builder
	for token, e := range s.responder.Respond(gen.Context(), conversation.Messages) {
		if err = e; err != nil {
			break
		}
		token = strings.ReplaceAll(token, "\x00", "") // which PostgreSQL refuses
		reply.WriteString(token)
		sent := stream.send("token", struct {
			Content string `json:"content"`
		}{token})
		if !sent {
			stop() // as for a client that has left
		}
		if gen.Context().Err() != nil {
			break
		}
	}
	cancelled := gen.Context().Err() != nil
	saved, saveErr := s.saveReply(gen.Context(), chatID, reply.String())
	if cancelled && errors.Is(saveErr, aside.ErrNotFound) {
		saveErr = nil // the room was deleted, which is why
	}
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
func (s *Server) saveReply(ctx context.Context, chatID, reply string) (*Message, error) {
	reply = strings.TrimSpace(reply)
	if reply == "" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	m, err := s.repo.AddMessage(ctx, chatID, "assistant", reply)
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// events writes server-sent events. See https://html.spec.whatwg.org/multipage/server-sent-events.html
type events struct {
	w    http.ResponseWriter
	conn *http.ResponseController
}

// sendTimeout is how long a client that does not read is waited for.
const sendTimeout = 5 * time.Second

func newEvents(w http.ResponseWriter) events {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	e := events{w, http.NewResponseController(w)}
	_ = e.conn.Flush()
	return e
}

// send writes one event, and reports whether the client took it.
func (e events) send(name string, data any) bool {
	text, err := json.Marshal(data)
	if err != nil {
		text = []byte("null")
	}
	_ = e.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	_, err = fmt.Fprintf(e.w, "event: %s\ndata: %s\n\n", name, text)
	return err == nil && e.conn.Flush() == nil
}

// end leaves the connection to the next request.
func (e events) end() { _ = e.conn.SetWriteDeadline(time.Time{}) }
