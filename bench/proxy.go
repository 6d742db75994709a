package main

import (
	"bytes"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// proxy stands between a client and Redis and counts what the client sends: its
// commands, by parsing them, and its round trips. Commands that a script runs
// inside Redis are neither. It adds the time of a hop, so nothing is timed
// through it that a hop would matter to. With a delay it stands for the way to a
// Redis that is far away.
type proxy struct {
	addr     string
	target   string
	delay    time.Duration // of each direction
	way      chan parcel   // all that is delayed
	listener net.Listener
	closed   chan struct{}

	commands atomic.Int64
	trips    atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool // nil when closed
}

// parcel is a piece of a stream that is sent on when it is due.
type parcel struct {
	due  time.Time
	to   net.Conn
	data []byte
}

func startProxy(target string, delay time.Duration) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{
		addr: l.Addr().String(), target: target, delay: delay, way: make(chan parcel, 1024),
		listener: l, closed: make(chan struct{}), conns: make(map[net.Conn]bool),
	}
	go p.accept()
	go p.sendDue()
	return p, nil
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		if !p.keep(client) || !p.keep(server) {
			client.Close()
			server.Close()
			return
		}
		// A round trip begins with the first bytes that are sent after a reply.
		replied := new(atomic.Bool)
		replied.Store(true)
		var requests counter
		go p.pipe(client, server, func(sent []byte) {
			if replied.Swap(false) {
				p.trips.Add(1)
			}
			p.commands.Add(requests.count(sent))
		})
		go p.pipe(server, client, func([]byte) { replied.Store(true) })
	}
}

func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return false
	}
	p.conns[c] = true
	return true
}

// pipe copies from one to the other until one of them ends, and shows see what it
// copies before it is sent on.
func (p *proxy) pipe(from, to net.Conn, see func([]byte)) {
	defer func() {
		from.Close()
		to.Close()
		p.mu.Lock()
		delete(p.conns, from)
		p.mu.Unlock()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			see(buf[:n])
			if err := p.send(to, buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// send writes data to a connection, now or after the delay. Data on its way is lost
// when one end closes.
func (p *proxy) send(to net.Conn, data []byte) error {
	if p.delay == 0 {
		_, err := to.Write(data)
		return err
	}
	select {
	case p.way <- parcel{time.Now().Add(p.delay), to, bytes.Clone(data)}:
		return nil
	case <-p.closed:
		return net.ErrClosed
	}
}

// sendDue sends what is delayed, which becomes due in the order of its coming. It
// does not sleep until then: a sleep of less than a millisecond may take a whole one.
func (p *proxy) sendDue() {
	for {
		select {
		case next := <-p.way:
			for time.Now().Before(next.due) {
				runtime.Gosched()
			}
			_, _ = next.to.Write(next.data) // the other direction notices
		case <-p.closed:
			return
		}
	}
}

func (p *proxy) close() {
	p.listener.Close()
	close(p.closed)
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// counter counts RESP commands in a stream: arrays of bulk strings.
type counter struct {
	line []byte // of a header, so far
	skip int    // bytes of a bulk string, and what ends it, that are still to come
	left int    // bulk strings of the command that are still to come
}

// count returns how many commands end in b, which follows what it was given before.
func (c *counter) count(b []byte) (commands int64) {
	for len(b) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(b))
			b, c.skip = b[n:], c.skip-n
			if c.skip > 0 {
				return commands
			}
			if c.left--; c.left == 0 {
				commands++
			}
			continue
		}
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			c.line = append(c.line, b...)
			return commands
		}
		header := bytes.TrimSpace(append(c.line, b[:i]...))
		b, c.line = b[i+1:], nil
		if len(header) < 2 {
			continue
		}
		n, _ := strconv.Atoi(string(header[1:]))
		switch header[0] {
		case '*':
			c.left = n
		case '$':
			c.skip = n + len("\r\n")
		}
	}
	return commands
}
