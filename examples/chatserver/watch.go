package main

import (
	"context"
	"net/http"
	"time"

	"github.com/cacheaside/aside"
)

// watchEvery is the time between two cache events of a page.
const watchEvery = time.Second

// about is the data of the first event of a stream. It does not change.
type about struct {
	Server   string `json:"server"`
	Model    string `json:"model"` // empty: the built-in responder
	Database string `json:"database"`
}

// cacheState is the data of a cache event. Its counters are of this server alone, since the
// server started.
type cacheState struct {
	Enabled    bool      `json:"enabled"`   // false when the cache is switched off
	Available  bool      `json:"available"` // false also when it does not answer
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

// chatKeys is the state of the room that a page shows. Keys are those in the cache.
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

// watch streams server-sent events to a page: about once, then the last reads, then cache
// each second and read for each read of a conversation. A read names its room only if it is
// the room that is watched, since anyone who knows a room's id can read it.
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

// state asks the cache for its status, also while the breaker is open, so that the page shows
// when it is available again.
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

// chatState looks at the room's keys with aside.Peek, which does not load, count or log: a
// page that watches must not change the figures that it shows.
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
