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

// proxy passes on the bytes between clients and Redis, and counts the commands and round trips of
// the clients. Commands that a script runs inside Redis are neither.
//
// It adds the time of a hop to each direction, so it is not there while short operations are
// timed. With a delay it stands for the network to a Redis that is far away.
type proxy struct {
	addr     string        // for clients
	target   string        // the address of Redis
	delay    time.Duration // of each direction
	way      chan parcel   // the delayed bytes, in order
	listener net.Listener
	closed   chan struct{}

	commands atomic.Int64
	trips    atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool // those to close; nil once closed
}

// parcel is a piece of a stream, to be written to a connection when it is due.
type parcel struct {
	due  time.Time
	to   net.Conn
	data []byte
}

// startProxy starts a proxy in front of target.
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

// accept connects each client to Redis until the listener is closed.
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

// keep notes a connection for close. It returns false if the proxy is closed already.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return false
	}
	p.conns[c] = true
	return true
}

// pipe copies bytes in one direction until one of the connections ends, and calls see with
// them before it sends them.
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

// send writes data to a connection, now or after the delay. Delayed data is lost if one end
// closes.
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

// sendDue sends delayed data, which becomes due in the order of its arrival. It spins until then,
// as a sleep of less than a millisecond may take a whole one.
func (p *proxy) sendDue() {
	for {
		select {
		case next := <-p.way:
			for time.Now().Before(next.due) {
				runtime.Gosched()
			}
			_, _ = next.to.Write(next.data) // an error ends the other direction, too
		case <-p.closed:
			return
		}
	}
}

// close closes all connections. Delayed data is not sent any more.
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

// counter counts RESP commands, which are arrays of bulk strings, in a stream.
type counter struct {
	line []byte // the beginning of a header, if the last read ended within one
	skip int    // the bytes of a bulk string, its line end included, that are still to come
	left int    // the bulk strings of the command that are still to come
}

// count returns how many commands end in b, which are the next bytes of the stream.
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
