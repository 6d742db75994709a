package redistest

import (
	"net"
	"slices"
	"sync"
)

// Buffered returns a connection in memory whose writes do not wait for who reads, as
// those of a socket do not, within bounds. Its pipe alone has no room: a client that
// writes many commands before it reads, and a server that writes each reply before it
// reads on, would wait for each other.
func Buffered(conn net.Conn) net.Conn { return &buffered{Conn: conn} }

type buffered struct {
	net.Conn
	mu      sync.Mutex
	queue   [][]byte
	writing bool
	err     error // of a write
}

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

// write writes what is in the queue.
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
