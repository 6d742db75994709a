package main

import (
	"context"
	"net/http"
	"time"

	"github.com/cacheaside/aside"
)

// watchEvery is how often a page is told of the cache.
const watchEvery = time.Second

// about is what a page is told once.
type about struct {
	Server   string `json:"server"`
	Model    string `json:"model"` // empty: the built-in responder
	Database string `json:"database"`
}

// cacheState is what a page is told again and again.
type cacheState struct {
	Enabled    bool      `json:"enabled"`   // not switched off
	Available  bool      `json:"available"` // and it answers
	Backend    string    `json:"backend"`
	Version    string    `json:"version,omitempty"`
	UsedMemory string    `json:"used_memory,omitempty"`
	Keys       int64     `json:"keys"`
	Breaker    string    `json:"breaker"`
	Queued     int       `json:"queued"`
	Overflowed bool      `json:"overflowed"`
	Hits       int64     `json:"hits"`
	StaleHits  int64     `json:"stale_hits"`
	Misses     int64     `json:"misses"`
	Loads      int64     `json:"loads"`
	Refreshes  int64     `json:"refreshes"`
	Coalesced  int64     `json:"coalesced"`
	Chat       *chatKeys `json:"chat,omitempty"`
}

// chatKeys is what there is of one room.
type chatKeys struct {
	ChatID     string    `json:"chat_id"`
	Newest     int64     `json:"newest"` // id of its last message
	Generating bool      `json:"generating"`
	Keys       []chatKey `json:"keys"`
}

type chatKey struct {
	Key   string  `json:"key"`
	TTLMS float64 `json:"ttl_ms"`
}

// watch streams, as server-sent events, about once, then cache each second, and
// read for each read of a conversation, from the last ones on. Only the room that is
// watched is named: to know a room's id is all that it takes to read it.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	last, reads, stop := s.reads.watch()
	defer stop()
	ctx, leave := context.WithCancel(r.Context())
	defer leave()
	defer context.AfterFunc(s.stopping, leave)()
	stream := newEvents(w, leave)
	defer stream.end()
	chatID := r.URL.Query().Get("chat_id")
	tell := func(read chatRead) {
		if read.ChatID != chatID {
			read.ChatID = ""
		}
		stream.send("read", read)
	}
	stream.send("about", s.about)
	for _, read := range last {
		tell(read)
	}
	stream.send("cache", s.state(ctx, chatID))
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case read := <-reads:
			tell(read)
		case <-tick.C:
			stream.send("cache", s.state(ctx, chatID))
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) state(ctx context.Context, chatID string) cacheState {
	st, err := s.repo.cache.Status(ctx)
	out := cacheState{
		Enabled: s.cacheOn, Available: s.cacheOn && err == nil, Backend: s.backend,
		Version: st.Version, UsedMemory: st.UsedMemory, Keys: st.Keys,
		Breaker: st.Breaker, Queued: st.Queued, Overflowed: st.Overflowed,
		Hits: st.Stats.Hits, StaleHits: st.Stats.StaleHits, Misses: st.Stats.Misses,
		Loads: st.Stats.Loads, Refreshes: st.Stats.Refreshes, Coalesced: st.Stats.Coalesced,
	}
	if chatID != "" {
		out.Chat = s.chatState(ctx, chatID, out.Available)
	}
	return out
}

func (s *Server) chatState(ctx context.Context, chatID string, available bool) *chatKeys {
	out := &chatKeys{ChatID: chatID, Keys: []chatKey{}}
	var err error
	if out.Newest, err = s.repo.Newest(ctx, chatID); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "reading the newest message", "chat_id", chatID, "err", err)
	}
	if !available {
		return out
	}
	add := func(key aside.Key, left time.Duration, ok bool) bool {
		if ok {
			out.Keys = append(out.Keys, chatKey{key.String(), ms(left)})
		}
		return ok
	}
	conversation, generation, signal := conversations(chatID), aside.GenerationKey(chatID), aside.CancelKey(chatID)
	_, left, ok, _ := aside.Peek[Conversation](ctx, s.repo.cache, conversation)
	add(conversation, left, ok)
	_, left, ok, _ = aside.Peek[any](ctx, s.repo.cache, generation)
	out.Generating = add(generation, left, ok)
	_, left, ok, _ = aside.Peek[any](ctx, s.repo.cache, signal)
	add(signal, left, ok)
	return out
}
