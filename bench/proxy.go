package main

import (
	"bytes"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
)

// proxy stands between a client and Redis and counts what the client sends: its
// commands, by parsing them, and its round trips. Commands that a script runs
// inside Redis are neither. It adds the time of a hop, so nothing is timed
// through it that a hop would matter to.
type proxy struct {
	addr     string
	target   string
	listener net.Listener

	commands atomic.Int64
	trips    atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool // nil when closed
}

func startProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{addr: l.Addr().String(), target: target, listener: l, conns: make(map[net.Conn]bool)}
	go p.accept()
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
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) close() {
	p.listener.Close()
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
