package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// dial sends text to the server, and returns the connection.
func (c *client) dial(text string, args ...any) net.Conn {
	c.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(conn, text, args...)
	return conn
}

func status(t *testing.T, r *bufio.Reader, method string) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// A client that does not send its whole body claims no room.
func TestUnfinishedBody_ClaimsNoRoom(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\nExpect: 100-continue\r\n"} {
		t.Run(header, func(t *testing.T) {
			t.Parallel()
			c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
			room := c.room()
			c.say(room, "short")
			c.dial("POST /api/v1/chats/%s/generate HTTP/1.1\r\nHost: x\r\n%s\r\n", room, header)
			c.want(404, "POST", "/api/v1/chats/"+room+"/cancel", "")
			_, events := c.stream(t.Context(), room)
			last := ""
			for last = range events {
			}
			if last != "done" {
				t.Errorf("another reply ended with %q", last)
			}
			if got := c.history(room, ""); len(got) != 2 {
				t.Errorf("the history is %+v", got)
			}
		})
	}
}

// once is a listener with one connection.
type once struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (o once) Accept() (net.Conn, error) {
	select {
	case conn := <-o.conns:
		return conn, nil
	case <-o.closed:
		return nil, net.ErrClosed
	}
}

func (o once) Close() error   { close(o.closed); return nil }
func (o once) Addr() net.Addr { return &net.TCPAddr{} }

// A client that does not send its whole body is answered in time, and one that sends it
// late has no deadline after it.
func TestUnfinishedBody_Ends(t *testing.T) {
	t.Parallel()
	for header, rest := range map[string]string{
		"Content-Length: 5\r\n":                             "",
		"Transfer-Encoding: chunked\r\n":                    "",
		"Expect: 100-continue\r\nContent-Length: 5\r\n":     "",
		"X: whole\r\nContent-Length: 5\r\n":                 "12345",
		"X: whole\r\nTransfer-Encoding: chunked\r\n":        "5\r\n12345\r\n0\r\n\r\n",
		"X: broken\r\nTransfer-Encoding: chunked\r\n":       "x\r\n",
		"X: stopped\r\nContent-Length: 5\r\nIgnored: 1\r\n": "",
	} {
		synctest.Test(t, func(t *testing.T) {
			stopping, stop := context.WithCancel(t.Context())
			defer stop()
			s := &Server{stopping: stopping}
			srv := &http.Server{Handler: s.readBodies(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				text, err := io.ReadAll(r.Body)
				time.Sleep(time.Hour) // as a stream may last
				if string(text) != "12345" || err != nil || r.Context().Err() != nil {
					t.Errorf("%q, %v, %v", text, err, r.Context().Err())
				}
			}))}
			listener := once{make(chan net.Conn, 1), make(chan struct{})}
			client, server := net.Pipe()
			listener.conns <- server
			served := make(chan error)
			go func() { served <- srv.Serve(listener) }()
			go func() {
				fmt.Fprintf(client, "POST / HTTP/1.1\r\nHost: x\r\n%s\r\n", header)
				time.Sleep(bodyTimeout - time.Second)
				if strings.HasPrefix(header, "X: stopped") {
					stop()
				}
				fmt.Fprint(client, rest)
			}()
			start := time.Now()
			answers := bufio.NewReader(client)
			res := status(t, answers, "POST")
			if res.StatusCode == http.StatusContinue {
				res = status(t, answers, "POST")
			}
			want, took := http.StatusRequestTimeout, bodyTimeout
			switch header[:4] {
			case "X: w":
				want, took = http.StatusOK, bodyTimeout-time.Second+time.Hour
			case "X: b":
				want, took = http.StatusBadRequest, bodyTimeout-time.Second
			case "X: s":
				want, took = http.StatusServiceUnavailable, bodyTimeout-time.Second+stopTimeout
			}
			if res.StatusCode != want || time.Since(start) != took {
				t.Errorf("%q: %d after %v, want %d after %v", header, res.StatusCode, time.Since(start), want, took)
			}
			client.Close()
			srv.Close()
			<-served
			synctest.Wait()
		})
	}
}

// Half a body does not keep a server that stops, nor make it fail.
func TestServe_StopsDuringABody(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	reading := make(chan struct{})
	s := &Server{stopping: ctx}
	inner := s.readBodies(http.NotFoundHandler())
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(reading)
		inner.ServeHTTP(w, r)
	})
	listening := make(chan string, 1)
	log := slog.New(slog.NewTextHandler(writer(func(text string) {
		if _, address, ok := strings.Cut(text, "url=http://"); ok {
			listening <- strings.TrimSpace(address)
		}
	}), nil))
	served := make(chan error, 1)
	go func() { served <- serve(ctx, "127.0.0.1:0", handler, log) }()
	c.url = "http://" + <-listening
	conn := c.dial("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
	<-reading
	stop()
	if res := status(t, bufio.NewReader(conn), "POST"); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("answered with %d", res.StatusCode)
	}
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
}

type writer func(string)

func (w writer) Write(b []byte) (int, error) { w(string(b)); return len(b), nil }

// Strings that are no text are refused: Go's would be others, and two become one.
func TestBody_IsText(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	messages := "/api/v1/chats/" + c.room() + "/messages"
	for _, text := range []string{"\xff", "a\xed\xa0\xbd", "\xf0\x9f\x98", `\ud83d`, `\ude00`, `\ud83d\ud83d\ude00`, `\ud83dx`, `\\\ud83d`} {
		c.want(400, "POST", "/api/v1/chats", `{"user_id":"`+text+`"}`)
		c.want(400, "POST", messages, `{"role":"user","content":"`+text+`"}`)
		c.want(400, "POST", messages, `{"role":"user","content":"x","`+text+`":1}`)
	}
	for _, text := range []string{"😀", `\ud83d\ude00`, `\\ud83d`, "\ufffd", `\ufffd`, `한\n\"`} {
		c.want(201, "POST", "/api/v1/chats", `{"user_id":"`+text+`"}`)
	}
}
