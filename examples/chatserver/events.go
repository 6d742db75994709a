package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// sendTimeout is how long a client that does not read is waited for.
	sendTimeout = 5 * time.Second
	// sendPiece is how many bytes it must take in that time.
	sendPiece = 16 << 10
	// maxWaiting is how many bytes may wait for a client that reads slowly.
	maxWaiting = 4 << 20
	// keepAlive is after how long a silent stream has a comment, so that no proxy takes
	// it for one that hangs.
	keepAlive = 15 * time.Second
)

// events writes server-sent events. A goroutine of its own does so, one event after the
// other and a comment where none came for keepAlive, so that send waits for nobody. See
// https://html.spec.whatwg.org/multipage/server-sent-events.html
type events struct {
	w       http.ResponseWriter
	conn    *http.ResponseController
	left    func() // is called when the client takes no more
	wake    chan struct{}
	written chan struct{} // is closed when nothing more is written

	mu      sync.Mutex
	waiting []byte // to be written
	ended   bool   // nothing more is sent
}

// newEvents answers with a stream of events, which must be ended. It calls left when
// the client has not read for sendTimeout, is behind by maxWaiting, or its connection is
// gone.
func newEvents(w http.ResponseWriter, left func()) *events {
	eventHeader(w)
	e := &events{w: w, conn: http.NewResponseController(w), left: left, wake: make(chan struct{}, 1), written: make(chan struct{})}
	go e.write()
	e.wake <- struct{}{} // for the header
	return e
}

func eventHeader(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
}

// noEvents answers HEAD where GET streams.
func noEvents(w http.ResponseWriter, _ *http.Request) { eventHeader(w) }

// send has one event written. Those for a client that takes no more are dropped.
func (e *events) send(name string, data any) {
	text, err := json.Marshal(data)
	if err != nil {
		text = []byte("null")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) > maxWaiting {
		e.left()
		return
	}
	e.waiting = fmt.Appendf(e.waiting, "event: %s\ndata: %s\n\n", name, text)
	e.signal()
}

// signal needs mu.
func (e *events) signal() {
	select {
	case e.wake <- struct{}{}:
	default: // it will look
	}
}

// end waits until all was written or the client takes no more, and leaves the
// connection to the next request.
func (e *events) end() {
	e.mu.Lock()
	e.ended = true
	e.signal()
	e.mu.Unlock()
	<-e.written
	_ = e.conn.SetWriteDeadline(time.Time{})
}

func (e *events) write() {
	defer close(e.written)
	silence := time.NewTimer(keepAlive)
	defer silence.Stop()
	taken := true
	for {
		var text []byte
		select {
		case <-e.wake:
			e.mu.Lock()
			text, e.waiting = e.waiting, nil
			ended := e.ended
			e.mu.Unlock()
			if taken = taken && e.pass(text); ended {
				return
			}
		case <-silence.C:
			taken = taken && e.pass([]byte(": keep-alive\n\n"))
		}
		if !taken {
			e.left()
		}
		silence.Reset(keepAlive)
	}
}

// pass writes to the client, and reports whether it took that.
func (e *events) pass(text []byte) bool {
	for {
		part := text[:min(len(text), sendPiece)]
		_ = e.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
		if _, err := e.w.Write(part); err != nil {
			return false
		}
		if err := e.conn.Flush(); err != nil {
			return false
		}
		if text = text[len(part):]; len(text) == 0 {
			return true
		}
	}
}
