package redistest

import (
	"net"
	"slices"
	"sync"
)

// Buffered returns conn, an end of a [net.Pipe], with writes that do not wait for the reader,
// as those of a socket with buffers do not. The queue has no bound.
//
// A pipe alone has no buffer. A client that writes many commands before it reads, and a server
// that writes each reply before it reads on, would wait for each other.
func Buffered(conn net.Conn) net.Conn { return &buffered{Conn: conn} }

// buffered is a connection with a queue of writes.
type buffered struct {
	net.Conn
	mu      sync.Mutex
	queue   [][]byte // copies, as a writer may reuse its own
	writing bool     // a goroutine runs write
	err     error    // of a write to Conn; later writes return it
}

// Write adds p to the queue, and starts a goroutine that writes the queue if none runs.
func (b *buffered) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	b.queue = append(b.queue, slices.Clone(p))
	if !b.writing {
		b.writing = true
		go b.write()
	}
	return len(p), nil
}

// write writes the queue to Conn until it is empty or a write fails.
func (b *buffered) write() {
	for {
		b.mu.Lock()
		if len(b.queue) == 0 || b.err != nil {
			b.writing = false
			b.mu.Unlock()
			return
		}
		p := b.queue[0]
		b.queue = b.queue[1:]
		b.mu.Unlock()
		if _, err := b.Conn.Write(p); err != nil {
			b.mu.Lock()
			b.err = err
			b.mu.Unlock()
		}
	}
}
