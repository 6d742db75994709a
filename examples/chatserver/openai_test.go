package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// modelServer answers as a server with OpenAI's interface does.
func modelServer(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, asked string)) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Model    string
			Stream   bool
			Messages []struct{ Role, Content string }
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.URL.Path != "/v1/chat/completions" || !in.Stream || in.Model != "small" {
			t.Errorf("%s: %+v, %v", r.URL.Path, in, err)
		}
		if got := r.Header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("Authorization: %q", got)
		}
		var roles []string
		for _, m := range in.Messages {
			roles = append(roles, m.Role+"="+m.Content)
		}
		answer(w, r, strings.Join(roles, " "))
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/v1"
}

func piece(w http.ResponseWriter, text string) {
	data, _ := json.Marshal(text)
	fmt.Fprintf(w, `data: {"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":%s}}]}`+"\n\n", data)
	_ = http.NewResponseController(w).Flush()
}

func finish(w http.ResponseWriter, reason string) {
	fmt.Fprintf(w, `data: {"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":%q}]}`+"\n\ndata: [DONE]\n\n", reason)
}

func modelEnv(url string) map[string]string {
	return map[string]string{"CACHE_TYPE": "memory", "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "secret", "OPENAI_MODEL": "small"}
}

func TestModel_Replies(t *testing.T) {
	t.Parallel()
	url := modelServer(t, func(w http.ResponseWriter, _ *http.Request, asked string) {
		w.Header().Set("Content-Type", "text/event-stream")
		piece(w, "You asked: ")
		piece(w, asked)
		finish(w, "stop")
	})
	c := serverOn(t, modelEnv(url))
	room := c.room()
	c.want(201, "POST", "/api/v1/chats/"+room+"/messages", `{"role":"system","content":"be brief"}`)
	c.want(201, "POST", "/api/v1/chats/"+room+"/messages", `{"role":"assistant","content":"hello"}`)
	c.want(201, "POST", "/api/v1/chats/"+room+"/messages", `{"role":"user","content":"why?"}`)
	_, events := c.stream(t.Context(), room)
	var last, data string
	for last, data = range events {
	}
	if want := "You asked: system=be brief assistant=hello user=why?"; last != "done" || !strings.Contains(data, want) {
		t.Errorf("got %s %s, want done with %q", last, data, want)
	}
}

// An error of the model reaches the client by its kind, and the partial reply is saved.
func TestModel_Trouble(t *testing.T) {
	t.Parallel()
	fails := func(code int) func(w http.ResponseWriter, r *http.Request, asked string) {
		return func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Retry-After-Ms", "1")
			http.Error(w, `{"error":{"message":"no secret of the server's"}}`, code)
		}
	}
	begins := func(then func(w http.ResponseWriter, r *http.Request)) func(w http.ResponseWriter, r *http.Request, asked string) {
		return func(w http.ResponseWriter, r *http.Request, _ string) {
			w.Header().Set("Content-Type", "text/event-stream")
			piece(w, "It ")
			piece(w, "is")
			then(w, r)
		}
	}
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, asked string)
		kind   string
		saved  string
	}{
		"the key":       {fails(401), "refused", ""},
		"the quota":     {fails(429), "busy", ""},
		"an error":      {fails(500), "failed", ""},
		"never answers": {func(_ http.ResponseWriter, r *http.Request, _ string) { <-r.Context().Done() }, "timeout", ""},
		"falls silent":  {begins(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), "timeout", "It is"},
		"is too long":   {begins(func(w http.ResponseWriter, _ *http.Request) { finish(w, "length") }), "length", "It is"},
		"is filtered":   {begins(func(w http.ResponseWriter, _ *http.Request) { finish(w, "content_filter") }), "failed", "It is"},
		"just ends":     {begins(func(http.ResponseWriter, *http.Request) {}), "unreachable", "It is"},
		"is a web page": {func(w http.ResponseWriter, _ *http.Request, _ string) { fmt.Fprint(w, "<html>hello</html>") }, "unreachable", ""},
		"breaks off":    {begins(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), "unreachable", "It is"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := modelEnv(modelServer(t, test.answer))
			var c *client
			var room, last, data string
			var got broken
			for timeout := 200 * time.Millisecond; ; timeout *= 4 { // longer, if this machine was too slow for what comes before the silence
				if test.kind == "timeout" {
					env["OPENAI_TIMEOUT"] = timeout.String()
				}
				c = serverOn(t, env)
				room = c.room()
				c.say(room, "what is it?")
				_, events := c.stream(t.Context(), room)
				for last, data = range events {
				}
				got = broken{}
				if err := json.Unmarshal([]byte(data), &got); err != nil || last != "error" || got.Kind != test.kind || got.Message == "" {
					t.Errorf("got %s %s, want an error of the kind %q", last, data, test.kind)
				}
				if test.kind != "timeout" || (got.Saved != nil && got.Saved.Content == test.saved) == (test.saved != "") || timeout > 20*time.Second {
					break
				}
			}
			if strings.Contains(data, "secret") {
				t.Errorf("the text of the model's server is shown to the client: %s", data)
			}
			history := c.history(room, "")
			if kept := len(history) == 2 && history[1].Content == test.saved; kept != (test.saved != "") {
				t.Errorf("the history is %v, want %q kept", history, test.saved)
			}
			if kept := got.Saved != nil && got.Saved.Content == test.saved; kept != (test.saved != "") {
				t.Errorf("told is %+v, want %q", got.Saved, test.saved)
			}
		})
	}
}

func TestModel_OutOfReach(t *testing.T) {
	t.Parallel()
	m := newModel("http://127.0.0.1:1/v1", "secret", "small", time.Minute)
	for _, err := range m.Respond(t.Context(), []Message{{Role: "user", Content: "?"}}) {
		var e *ModelError
		if !errors.As(err, &e) || e.Kind != "unreachable" {
			t.Errorf("got %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for token, err := range m.Respond(ctx, nil) {
		t.Errorf("a reply whose context has ended: %q, %v", token, err)
	}
}
