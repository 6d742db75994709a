package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// sendTimeout is how long a client may take to read a piece of the stream.
	sendTimeout = 5 * time.Second
	// sendPiece is the size of a piece, in bytes.
	sendPiece = 16 << 10
	// maxWaiting is how many bytes are buffered for a slow client.
	maxWaiting = 4 << 20
	// keepAlive is how long a stream may be silent. A comment is sent then, so that no
	// proxy takes the connection for a dead one.
	keepAlive = 15 * time.Second
)

// events writes server-sent events in a goroutine of its own, so that send never waits for
// the client. See https://html.spec.whatwg.org/multipage/server-sent-events.html
type events struct {
	w       http.ResponseWriter
	conn    *http.ResponseController
	left    func() // called when the client has gone or is too slow
	wake    chan struct{}
	written chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	waiting []byte // events to be written
	ended   bool   // whether end was called
}

// newEvents answers with a stream of events. The caller must call end before its handler
// returns. left is called, possibly more than once, when the client has not read a piece
// within sendTimeout, is behind by maxWaiting, or its connection is closed.
func newEvents(w http.ResponseWriter, left func()) *events {
	eventHeader(w)
	e := &events{w: w, conn: http.NewResponseController(w), left: left, wake: make(chan struct{}, 1), written: make(chan struct{})}
	go e.write()
	e.wake <- struct{}{} // so that the header is sent before the first event
	return e
}

// eventHeader tells caches not to store the stream, and nginx, by X-Accel-Buffering, not to
// hold events back.
func eventHeader(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
}

// noEvents answers HEAD on a path whose GET streams, with the same header.
func noEvents(w http.ResponseWriter, _ *http.Request) { eventHeader(w) }

// send queues one event and returns. It drops the event if the client is behind by
// maxWaiting.
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

// signal wakes the writing goroutine. The caller holds mu.
func (e *events) signal() {
	select {
	case e.wake <- struct{}{}:
	default: // the goroutine has not taken the last signal yet, and will see all that waits
	}
}

// end waits until everything is written or the client takes no more. Then it removes the
// write deadline, which the connection's next request would inherit.
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

// pass writes text to the client piece by piece, and reports whether the client took it all.
// Each piece has a deadline of its own, so that a large event may take longer in all.
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
