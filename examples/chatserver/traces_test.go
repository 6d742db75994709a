package main

import (
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/secrettest"
)

// A collector gets the span of a request and that of the load within it, of one trace, and
// no text of the conversation.
func TestTraces(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var sent strings.Builder // protobuf, in which texts and ids are as they are
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
		}
		mu.Lock()
		defer mu.Unlock()
		sent.Write(body)
	}))
	defer collector.Close()
	s := startChatserver(t, map[string]string{"CACHE_TYPE": "memory", "SERVER_NAME": "one", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL})
	c := &client{t: t, url: s.url}
	room := c.room()
	const trace = "0af7651916cd43dd8448eb211c80319c"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/api/v1/chats/"+room+"/messages", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	c.history(room, "HIT")
	s.stop()
	mu.Lock()
	defer mu.Unlock()
	id, err := hex.DecodeString(trace)
	if err != nil {
		t.Fatal(err)
	}
	for text, least := range map[string]int{
		"aside.load": 1, "GET /api/v1/chats/{chat_id}/messages": 2, "chatserver": 1, "chat_messages": 1, string(id): 2,
	} {
		if n := strings.Count(sent.String(), text); n < least {
			t.Errorf("%q is there %d times, want %d:\n%q", text, n, least, sent.String())
		}
	}
	if strings.Contains(sent.String(), room) {
		t.Error("the room is named")
	}
}

// The log says why spans cannot be sent, and not where to: the address may have a token.
func TestTraces_OfACollectorThatRefuses(t *testing.T) {
	for name, collector := range map[string]http.HandlerFunc{
		"unauthorized": func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "no access to "+r.URL.String(), http.StatusUnauthorized)
		},
		"not found": http.NotFound,
	} {
		t.Run(name, func(t *testing.T) { // not parallel, as OpenTelemetry has one error handler
			server := httptest.NewServer(collector)
			defer server.Close()
			log := new(logtest.Buffer)
			traces, err := openTraces(t.Context(), server.URL+"/"+secrettest.InURL, "one", slog.New(slog.NewTextHandler(log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			_, end := traces.request(httptest.NewRequest(http.MethodGet, "/", nil))
			end("GET /", http.StatusOK)
			traces.stop()
			secrettest.Check(t, "the log", log.String())
			if !strings.Contains(log.String(), "cannot be sent") {
				t.Errorf("want a reason in the log:\n%s", log)
			}
		})
	}
}
