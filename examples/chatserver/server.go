package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/examples/cachehttp"
	"github.com/cacheaside/aside/examples/respond"
)

// Server is the chat server: HTTP handlers over a Repository and a Responder.
type Server struct {
	about       about
	cacheOn     bool
	backend     string // of the cache
	repo        *Repository
	generations *aside.Generations
	responder   Responder
	metrics     *metrics
	traces      *traces
	reads       readLog
	replies     replies
	log         *slog.Logger
	stopping    context.Context // ends when the server stops: replies are then cut off and saved
}

// Handler returns the server's routes, with cacheRoutes under /cache/ and /api/v1/cache/.
//
// The order of the wrappers matters. observed is outermost, so that refused requests are
// logged and timed too. Requests that are refused by their header are refused before their
// body is read.
func (s *Server) Handler(cacheRoutes http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/v1/chats", respond.Methods{http.MethodPost: s.createChat, http.MethodGet: s.listChats})
	mux.Handle("/api/v1/chats/{chat_id}", respond.Methods{http.MethodDelete: s.deleteChat})
	mux.Handle("/api/v1/chats/{chat_id}/messages", respond.Methods{http.MethodGet: s.listMessages, http.MethodPost: s.addMessage})
	mux.Handle("/api/v1/chats/{chat_id}/generate", respond.Methods{http.MethodPost: s.generate})
	mux.Handle("/api/v1/chats/{chat_id}/cancel", respond.Methods{http.MethodPost: s.cancel})
	mux.Handle("/api/v1/events", respond.Methods{http.MethodGet: s.watch, http.MethodHead: noEvents})
	mux.Handle("/healthz", respond.Methods{http.MethodGet: s.health})
	mux.Handle("/cache/", cacheRoutes)
	mux.Handle("/api/v1/cache/", cacheRoutes)
	mux.Handle("/metrics", respond.Methods{http.MethodGet: s.metrics.handler().ServeHTTP})
	mux.Handle("/{$}", respond.Methods{http.MethodGet: page})
	mux.Handle("/page/", respond.Methods{http.MethodGet: page})
	mux.HandleFunc("/", respond.NotFound)
	return s.observed(respond.SameOrigin(plainText(s.readBodies(mux))))
}

// plainText refuses addresses that are not UTF-8 or contain U+0000. PostgreSQL would refuse
// them with an error that looks like the server's fault.
func plainText(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text := r.URL.Path + r.URL.Query().Get("user_id") + r.URL.Query().Get("chat_id"); !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			respond.Error(w, http.StatusBadRequest, "the address contains bytes that are not text: want UTF-8 without U+0000")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// observed sets X-Process-Time on every response, the seconds until its header was written,
// and X-Server. It logs, measures and traces every request.
func (s *Server) observed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		w.Header().Set("X-Server", s.about.Server)
		timed := &timedWriter{ResponseWriter: w, start: start}
		r = r.WithContext(context.WithValue(r.Context(), loggerKey{}, s.log))
		r, traced := s.traces.request(r)
		next.ServeHTTP(timed, r)
		took := time.Since(start)
		traced(r.Pattern, timed.code)
		s.metrics.request(r.Pattern, r.Method, timed.code, took)
		s.log.InfoContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path, "code", timed.code, "ms", ms(took))
	})
}

type loggerKey struct{}

// logger returns the log of the server that serves the request of ctx. A loader runs in a
// context with the request's values, so it logs there too.
func logger(ctx context.Context) *slog.Logger {
	if log, ok := ctx.Value(loggerKey{}).(*slog.Logger); ok {
		return log
	}
	return slog.Default()
}

// timedWriter notes the status and sets X-Process-Time just before the header is written,
// after which a header field has no effect.
type timedWriter struct {
	http.ResponseWriter
	start time.Time
	code  int // 0 until the header is written
}

func (w *timedWriter) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
		w.Header().Set("X-Process-Time", fmt.Sprintf("%.6f", time.Since(w.start).Seconds()))
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *timedWriter) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController flush and set deadlines.
func (w *timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (s *Server) createChat(w http.ResponseWriter, r *http.Request) {
	var in struct {
		UserID string `json:"user_id"`
		Title  string `json:"title"`
	}
	if !readJSON(w, r, &in) {
		return
	}
	if strings.ContainsRune(in.UserID+in.Title, 0) {
		respond.Error(w, http.StatusBadRequest, "user_id or title contains U+0000: want text")
		return
	}
	if strings.TrimSpace(in.UserID) == "" {
		respond.Error(w, http.StatusBadRequest, "user_id is empty: want the id of a user")
		return
	}
	if in.Title = strings.TrimSpace(in.Title); in.Title == "" {
		in.Title = "New chat"
	}
	chat, err := s.repo.CreateChat(r.Context(), in.UserID, in.Title)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	respond.Success(w, http.StatusCreated, chat)
}

func (s *Server) listChats(w http.ResponseWriter, r *http.Request) {
	userID := r.URL.Query().Get("user_id")
	if userID == "" {
		respond.Error(w, http.StatusBadRequest, "user_id is missing: want ?user_id=…")
		return
	}
	chats, err := s.repo.Chats(r.Context(), userID)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	respond.Success(w, http.StatusOK, chats)
}

func (s *Server) listMessages(w http.ResponseWriter, r *http.Request) {
	conversation, outcome, err := s.conversation(r.Context(), r.PathValue("chat_id"))
	w.Header().Set("X-Cache", string(outcome))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	respond.Encoded(w, http.StatusOK, conversation.encoded)
}

// conversation reads a room's conversation, and notes the outcome and the time for pages.
func (s *Server) conversation(ctx context.Context, chatID string) (Conversation, string, error) {
	start := time.Now()
	ctx, t := traced(ctx)
	c, err := s.repo.Conversation(ctx, chatID)
	if err == nil {
		s.reads.add(chatID, t, start)
	}
	return c, t.outcome, err
}

func (s *Server) addMessage(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	if !readJSON(w, r, &in) {
		return
	}
	switch in.Role {
	case "user", "assistant", "system":
	default:
		respond.Error(w, http.StatusBadRequest, fmt.Sprintf("role %.40q is unknown: want user, assistant or system", in.Role))
		return
	}
	if strings.ContainsRune(in.Content, 0) {
		respond.Error(w, http.StatusBadRequest, "content contains U+0000: want text")
		return
	}
	if strings.TrimSpace(in.Content) == "" {
		respond.Error(w, http.StatusBadRequest, "content is empty: want a text")
		return
	}
	m, err := s.repo.AddMessage(r.Context(), r.PathValue("chat_id"), in.Role, in.Content)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	respond.Success(w, http.StatusCreated, m)
}

func (s *Server) deleteChat(w http.ResponseWriter, r *http.Request) {
	chatID := r.PathValue("chat_id")
	// A running reply should end first, so that it is not saved into a deleted room. If
	// none runs, or the cache is unavailable, or the reply does not end in time, the room
	// is deleted all the same: the reply's insert then finds no room.
	_, _ = s.endReply(r.Context(), chatID)
	if err := s.repo.DeleteChat(r.Context(), chatID); err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// health answers 503 only for the database. Without the cache the chat is slower, and taking
// its servers out of service would not help.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := s.repo.db.PingContext(ctx); err != nil {
		s.log.ErrorContext(ctx, "database unavailable", "err", err)
		respond.Error(w, http.StatusServiceUnavailable, "the database is unavailable")
		return
	}
	respond.Success(w, http.StatusOK, struct {
		Database string `json:"database"`
	}{"ok"})
}

// fail answers with the error's status and a message for the client. The text of an
// unexpected error goes to the log only, as it may name hosts and tables.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, aside.ErrNotFound):
		respond.Error(w, http.StatusNotFound, "there is no such chat")
	case errors.Is(err, aside.ErrInvalidKey):
		respond.Error(w, http.StatusBadRequest, "the chat_id is empty or too long")
	case errors.Is(err, aside.ErrGenerating):
		respond.Error(w, http.StatusConflict, "a reply is already being generated in this chat")
	case errors.Is(err, aside.ErrWriteRefused):
		respond.Error(w, http.StatusServiceUnavailable, "the write was refused: the cache is unavailable, and CACHE_REFUSE_WRITES is set")
	case r.Context().Err() != nil || errors.Is(err, context.Canceled): // or a reply was cancelled before it began
		respond.Error(w, http.StatusServiceUnavailable, "the request was cancelled")
	default:
		s.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		respond.Error(w, http.StatusInternalServerError, "internal error: see the server's log")
	}
}

// readJSON decodes the request's body into in, or answers 400 and returns false.
func readJSON(w http.ResponseWriter, r *http.Request, in any) bool {
	data, err := io.ReadAll(r.Body) // from memory: see readBodies
	if err == nil {
		err = json.Unmarshal(data, in)
	}
	if err == nil && !isText(data) {
		err = errors.New("a string in it is not text, in UTF-8 with both halves of each surrogate pair")
	}
	switch {
	case err == nil:
		return true
	case len(bytes.TrimSpace(data)) == 0:
		respond.Error(w, http.StatusBadRequest, "the body is empty: want a JSON object")
	default:
		respond.Error(w, http.StatusBadRequest, "the body is invalid: want a JSON object"+reason(err))
	}
	return false
}

// reason says where a body is wrong, in the terms of JSON and without the names of Go types.
func reason(err error) string {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("; byte %d: %v", syntax.Offset, syntax)
	case errors.As(err, &wrong) && wrong.Field != "":
		return fmt.Sprintf("; %s cannot be of type %s", wrong.Field, wrong.Value)
	case errors.As(err, &wrong):
		return ", not " + wrong.Value
	}
	return "; " + err.Error()
}

func cacheRoutes(cache aside.Cache, cfg aside.Config, adminToken string) http.Handler {
	return cachehttp.Handler(cache, cfg, cachehttp.Options{AdminToken: adminToken})
}
