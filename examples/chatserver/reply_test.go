package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside"
)

// The connection of an answered body, with and without Expect, serves the next request.
func TestBody_NextRequest(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	room := c.room()
	c.say(room, "short")
	conn := c.dial("POST /api/v1/chats/%s/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", room)
	answers := bufio.NewReader(conn)
	res := status(t, answers, "POST")
	if text, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(text), "event: done") {
		t.Errorf("%v: %s", err, text)
	}
	fmt.Fprintf(conn, "HEAD /api/v1/events?chat_id=%s HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", room)
	if res := status(t, answers, "HEAD"); res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD: %d %v", res.StatusCode, res.Header)
	}
	if res := status(t, answers, "GET"); res.StatusCode != 200 || res.Header.Get("Content-Type") == "text/event-stream" {
		t.Errorf("the next: %d %v", res.StatusCode, res.Header)
	}
}

// When the last event is told, the reply is saved and the room is free.
func TestGenerate_FreeWhenDone(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	env := modelEnv(modelServer(t, func(w http.ResponseWriter, _ *http.Request, _ string) {
		w.Header().Set("Content-Type", "text/event-stream")
		piece(w, "It is.")
		finish(w, "stop")
	}))
	maps.Copy(env, r.env)
	env["DATABASE_URL"], env["CACHE_TYPE"] = newDatabase(t), "redis"
	one, two := serverOn(t, env), serverOn(t, env)
	room := one.room()
	one.say(room, "?")
	const replies = 30
	for i := range replies {
		code, events := []*client{one, two}[i%2].stream(t.Context(), room)
		if code != 200 {
			t.Errorf("reply %d: %d", i, code)
		}
		for name := range events {
			if name == "done" {
				break // before the stream ends
			}
		}
	}
	if got := two.history(room, ""); len(got) != 1+replies {
		t.Errorf("%d messages", len(got))
	}
}

// A cancel, through any server, is answered once the partial reply is saved and the room is
// free.
func TestCancel_AnswersWhenEnded(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	env := maps.Clone(r.env)
	env["DATABASE_URL"], env["DATABASE_DELAY"] = newDatabase(t), "100ms"
	one, two := serverOn(t, env), serverOn(t, env)
	for _, other := range []*client{one, two} {
		room := one.room()
		one.say(room, "long")
		_, events := one.stream(t.Context(), room)
		for name := range events {
			if name == "token" {
				break
			}
		}
		a := other.want(200, "POST", "/api/v1/chats/"+room+"/cancel", "")
		if !strings.Contains(string(a.data), `"cancelled":true`) || strings.Contains(string(a.data), "pending") {
			t.Errorf("answered %s", a.data)
		}
		other.say(room, "next")
		got := two.history(room, "")
		if len(got) != 3 || got[1].Role != "assistant" || !got[1].Partial || got[2].Content != "next" || got[2].Partial {
			t.Errorf("the history is %+v", got)
		}
		if code, _ := other.stream(t.Context(), room); code != 200 {
			t.Errorf("the next reply: %d", code)
		}
		other.want(204, "DELETE", "/api/v1/chats/"+room, "")
	}
}

// The reply of a server that was killed does not end, and cancel answers that it is pending.
func TestCancel_NobodyAnswers(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	c := serverOn(t, r.env)
	room := c.room()
	r.client.Set(t.Context(), "generation:"+room, "1", time.Minute)
	a := c.want(202, "POST", "/api/v1/chats/"+room+"/cancel", "")
	if !strings.Contains(string(a.data), `"cancelled":false,"pending":true`) {
		t.Errorf("answered %s", a.data)
	}
	c.want(204, "DELETE", "/api/v1/chats/"+room, "")
	if n := r.client.Exists(t.Context(), "generation:"+room).Val(); n != 0 {
		t.Error("the deleted room has its key yet")
	}
}

// A reply whose room is deleted meanwhile ends as cancelled, and not with an error.
func TestGenerate_RoomDeleted(t *testing.T) {
	t.Parallel()
	begun, end := make(chan bool), make(chan bool)
	env := modelEnv(modelServer(t, func(w http.ResponseWriter, _ *http.Request, _ string) {
		w.Header().Set("Content-Type", "text/event-stream")
		piece(w, "whole")
		close(begun)
		<-end
		finish(w, "stop")
	}))
	s := startChatserver(t, env)
	c := &client{t: t, url: s.url}
	room := c.room()
	c.say(room, "?")
	_, events := c.stream(t.Context(), room)
	<-begun
	env, _, err := environment(s.env, variables(os.Environ()))
	if err != nil {
		t.Fatal(err)
	}
	db, err := openDatabase(t.Context(), env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `DELETE FROM chats WHERE chat_id = $1`, room); err != nil {
		t.Fatal(err)
	}
	close(end)
	last := ""
	for last = range events {
	}
	s.stop()
	if last != "cancelled" || strings.Contains(s.log.String(), "level=ERROR") {
		t.Errorf("the reply ended with %q, and the log is\n%s", last, s.log.String())
	}
}

// A reply that was cut off is marked, and the model does not get it when it is asked again.
func TestPartialReply(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 10)
	replies := 0
	c := serverOn(t, modelEnv(modelServer(t, func(w http.ResponseWriter, _ *http.Request, text string) {
		asked <- text
		w.Header().Set("Content-Type", "text/event-stream")
		replies++
		piece(w, fmt.Sprint("reply ", replies))
		if replies != 2 {
			finish(w, "length")
		} else {
			finish(w, "stop")
		}
	})))
	room := c.room()
	c.say(room, "one")
	reply := func(want string) (saved Message) {
		t.Helper()
		_, events := c.stream(t.Context(), room)
		var data string
		for _, data = range events {
		}
		var failed broken
		if err := json.Unmarshal([]byte(data), &failed); err != nil {
			t.Fatal(err)
		}
		if saved = (Message{}); failed.Saved != nil {
			saved = *failed.Saved
		} else if err := json.Unmarshal([]byte(data), &saved); err != nil {
			t.Fatal(err)
		}
		if got := <-asked; got != want {
			t.Errorf("the model was asked %q, want %q", got, want)
		}
		return saved
	}
	first, second := reply("user=one"), reply("user=one")
	if !first.Partial || second.Partial {
		t.Errorf("saved %+v, %+v", first, second)
	}
	c.say(room, "two")
	third := reply("user=one assistant=reply 2 user=two")
	c.say(room, "go on")
	reply("user=one assistant=reply 2 user=two assistant=reply 3 user=go on")
	var partial []bool
	for _, m := range c.history(room, "") {
		partial = append(partial, m.Partial)
	}
	if want := "[false true false false true false true]"; fmt.Sprint(partial) != want || !third.Partial {
		t.Errorf("partial are %v, want %s", partial, want)
	}
}

// A silent stream has a comment every 15 s until it ends.
func TestEvents_KeepAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		e := newEvents(w, func() { t.Error("the client is there") })
		time.Sleep(10 * time.Second)
		e.send("token", 1)
		time.Sleep(31 * time.Second)
		e.send("done", 2)
		e.end()
		time.Sleep(time.Minute)
		const comment = ": keep-alive\n\n"
		if want := "event: token\ndata: 1\n\n" + comment + comment + "event: done\ndata: 2\n\n"; w.Body.String() != want {
			t.Errorf("got %q, want %q", w.Body.String(), want)
		}
	})
}

// A model that never ends is cut, and its reply does not wait for a client that does
// not read.
type endless struct{ ended chan struct{} }

func (e endless) Respond(context.Context, []Message) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		defer close(e.ended)
		for yield(strings.Repeat("x", 1000), nil) {
		}
	}
}

// stuck is a client that does not read until it is let go.
type stuck struct {
	*httptest.ResponseRecorder
	let chan struct{}
}

func (s stuck) Write(b []byte) (int, error) {
	<-s.let
	return s.ResponseRecorder.Write(b)
}

func TestGenerate_WaitsForNoClient(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	room := c.room()
	c.say(room, "?")
	generations, err := aside.NewGenerations(c.cache)
	if err != nil {
		t.Fatal(err)
	}
	model := endless{make(chan struct{})}
	s := &Server{repo: c.repo, generations: generations, responder: model, log: slog.New(slog.DiscardHandler), stopping: t.Context()}
	r := httptest.NewRequest("POST", "/", nil)
	r.SetPathValue("chat_id", room)
	w := stuck{httptest.NewRecorder(), make(chan struct{})}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		s.generate(w, r)
	}()
	<-model.ended
	if ended := s.replies.in(room); ended != nil {
		<-ended
	}
	if got := c.history(room, ""); len(got) != 2 || len(got[1].Content) > maxReply || len(got[1].Content) < maxReply-1000 || !got[1].Partial {
		t.Errorf("%d messages", len(got))
	}
	if running, err := generations.Running(t.Context(), room); running || err != nil {
		t.Errorf("the room is claimed: %v, %v", running, err)
	}
	close(w.let)
	<-answered
	if text := w.Body.String(); !strings.Contains(text, "event: error") {
		t.Errorf("the last event is missing in %d bytes", len(text))
	}
}
