package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/examples/cachehttp"
)

// The Go of docs/guide.md and docs/guide.ko.md is below, and runs on the memory backend.

type Message struct {
	ChatID  string `json:"chat_id"`
	Role    string `json:"role"`
	Content string `json:"content"`
}

type ChatRepository struct {
	cache aside.Cache
	rows  map[string][]Message // the database
	loads int
}

func (r *ChatRepository) selectMessages(_ context.Context, chatID string) ([]Message, error) {
	r.loads++
	return append([]Message{}, r.rows[chatID]...), nil
}

func (r *ChatRepository) insertMessage(_ context.Context, m Message) error {
	r.rows[m.ChatID] = append(r.rows[m.ChatID], m)
	return nil
}

func (r *ChatRepository) deleteChat(_ context.Context, chatID string) error {
	delete(r.rows, chatID)
	return nil
}

func (r *ChatRepository) Messages(ctx context.Context, chatID string) ([]Message, error) {
	return aside.GetOrLoad(ctx, r.cache, aside.ChatMessages(chatID), func(ctx context.Context) ([]Message, error) {
		return r.selectMessages(ctx, chatID)
	})
}

func (r *ChatRepository) AddMessage(ctx context.Context, m Message) error {
	return aside.Update(ctx, r.cache, func(ctx context.Context) error {
		return r.insertMessage(ctx, m)
	}, aside.ChatMessages(m.ChatID))
}

func (r *ChatRepository) DeleteChat(ctx context.Context, chatID string) error {
	return aside.Update(ctx, r.cache, func(ctx context.Context) error {
		return r.deleteChat(ctx, chatID)
	}, aside.ChatMessages(chatID))
}

type Replies struct {
	chats       *ChatRepository
	generations *aside.Generations
	model       interface {
		Stream(ctx context.Context, prompt string) iter.Seq[string]
	}
}

func (s *Replies) Generate(ctx context.Context, chatID, prompt string) error {
	gen, err := s.generations.Start(ctx, chatID)
	if err != nil {
		return err // aside.ErrGenerating: a reply is being generated in this room already
	}
	defer gen.Finish()

	var reply strings.Builder
	for token := range s.model.Stream(gen.Context(), prompt) {
		reply.WriteString(token)
	}
	return s.chats.AddMessage(context.WithoutCancel(ctx), Message{ChatID: chatID, Role: "assistant", Content: reply.String()})
}

func (s *Replies) Cancel(ctx context.Context, chatID string) error {
	return s.generations.Cancel(ctx, chatID)
}

func open(mux *http.ServeMux) (aside.Cache, error) {
	cfg, err := aside.ConfigFromEnv(os.Environ())
	if err != nil {
		return nil, err
	}
	cache, err := aside.Open(cfg)
	if err != nil {
		return nil, err
	}
	admin := cachehttp.Handler(cache, cfg, cachehttp.Options{AdminToken: os.Getenv("CACHE_ADMIN_TOKEN")})
	mux.Handle("/cache/", admin)
	mux.Handle("/api/v1/cache/", admin)
	return cache, nil
}

// words is a model that says two words, and calls between after the first.
type words struct{ between func() }

func (w words) Stream(ctx context.Context, _ string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if yield("one ") {
			w.between()
			if ctx.Err() == nil {
				yield("two")
			}
		}
	}
}

// Not parallel, for it sets the environment.
func TestGuide_Code(t *testing.T) {
	t.Setenv("CACHE_TYPE", "memory")
	ctx, mux := t.Context(), http.NewServeMux()
	cache, err := open(mux)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	chats := &ChatRepository{cache: cache, rows: map[string][]Message{}}
	want := func(n, loads int) {
		t.Helper()
		if got, err := chats.Messages(ctx, "A"); err != nil || len(got) != n || chats.loads != loads {
			t.Fatalf("%d messages after %d loads, %v; want %d after %d", len(got), chats.loads, err, n, loads)
		}
	}
	want(0, 1)
	want(0, 1) // an empty room is a hit
	if err := chats.AddMessage(ctx, Message{ChatID: "A", Role: "user", Content: "hello"}); err != nil {
		t.Fatal(err)
	}
	want(1, 2)

	generations, err := aside.NewGenerations(cache)
	if err != nil {
		t.Fatal(err)
	}
	replies := &Replies{chats: chats, generations: generations}
	replies.model = words{func() {
		if err := replies.Generate(ctx, "A", "hello"); !errors.Is(err, aside.ErrGenerating) {
			t.Errorf("a second reply: %v", err)
		}
	}}
	if err := replies.Generate(ctx, "A", "hello"); err != nil || chats.rows["A"][1].Content != "one two" {
		t.Errorf("%v: %v", err, chats.rows)
	}
	want(2, 3)
	replies.model = words{func() {
		if err := replies.Cancel(ctx, "A"); err != nil {
			t.Error(err)
		}
	}}
	if err := replies.Generate(ctx, "A", "hello"); err != nil || chats.rows["A"][2].Content != "one " {
		t.Errorf("a reply that was cancelled: %v, %v", err, chats.rows)
	}
	if err := replies.Cancel(ctx, "A"); !errors.Is(err, aside.ErrNotGenerating) {
		t.Errorf("nothing runs: %v", err)
	}
	if err := chats.DeleteChat(ctx, "A"); err != nil {
		t.Fatal(err)
	}
	want(0, 4)
	for _, prefix := range []string{"/cache", "/api/v1/cache"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", prefix+"/status", nil))
		if w.Code != 200 || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %d %s", prefix, w.Code, w.Body)
		}
	}
}
