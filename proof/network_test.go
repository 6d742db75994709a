package proof

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
)

// network carries the commands of one process to Redis, and the replies back. It is a hook of
// the process's go-redis client, so it knows the call that a command belongs to. The fate of a
// command is drawn from the seed and the command's own place in the run, not from the order in
// which the scheduler runs goroutines. So a seed gives the same run again.
type network struct {
	seed  uint64
	alive *life // of the process
	trace func(format string, args ...any)

	mu    sync.Mutex
	state weather
	sent  map[string]uint64 // the number of commands, by name
}

// weather is the state of a network, for the commands that are sent now.
type weather struct {
	Refused bool          // connections are refused
	Hole    bool          // connections open, and no reply comes
	Latency time.Duration // the most, each way
	Slow    time.Duration // the least, there and back
	Lost    float64       // the share of commands to which something happens
}

var calm = weather{Latency: time.Millisecond}

var (
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	errReset   = &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}
	errDead    = errors.New("the process is dead")
)

// life says whether a process lives. A goroutine of a dead process stops at its next command or
// sleep until the run is over.
type life struct {
	died, over chan struct{}
}

func (l *life) ended() bool {
	select {
	case <-l.died:
		return true
	default:
		return false
	}
}

// sleep waits for d, or until ctx ends. If the process dies meanwhile, it returns only when the
// run is over.
func (l *life) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-l.died:
	}
	if l.ended() {
		<-l.over
		return errDead
	}
	return ctx.Err()
}

func (n *network) set(w weather) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = w
}

// draws returns the random numbers of one event of the run, named by parts.
func draws(seed uint64, parts ...any) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprint(h, parts...)
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// callKey is the key of the call in a context.
type callKey struct{}

// call is a call of the library by a simulated caller.
type call struct {
	id     int
	writes bool
	hasty  bool // it has a deadline
}

// next returns the weather and the random numbers for a command. They depend on the call
// for a GET and for the commands of a write only. The other commands of a flight are on behalf
// of all its callers, and chance decides which of those that arrive at once leads it.
func (n *network) next(ctx context.Context, name string) (weather, *rand.Rand) {
	if c, ok := ctx.Value(callKey{}).(call); ok && (c.writes || name == "get") {
		name = fmt.Sprint(name, " of call ", c.id)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent[name]++
	return n.state, draws(n.seed, name, " ", n.sent[name])
}

// nameOf returns a name for a command and its key. A script goes by its name, so that a seed
// gives the same run after the script has changed.
func nameOf(cmd redis.Cmder) string {
	switch args := cmd.Args(); cmd.Name() {
	case "get":
		return "get"
	case "evalsha", "eval":
		return fmt.Sprintf("%s %s %v", cmd.Name(), scriptOf(cmd), args[3])
	default:
		return cmd.Name()
	}
}

// scriptOf returns the name of the script of an eval or evalsha.
func scriptOf(cmd redis.Cmder) string {
	text := fmt.Sprint(cmd.Args()[1])
	if cmd.Name() == "evalsha" {
		return cmp.Or(scriptNames()[text], text)
	}
	return firstLine(text)
}

func firstLine(text string) string {
	name, _, _ := strings.Cut(text, "\n")
	return strings.TrimPrefix(name, "-- ")
}

// scriptNames has the names of the library's scripts, by their digests. It gets the texts from a
// Redis that has not seen a script, to which they are sent. The first line of each is its name.
var scriptNames = sync.OnceValue(func() map[string]string {
	ctx, key, names := context.Background(), "row:1", make(map[string]string)
	mini := miniredis.NewMiniRedis()
	defer mini.Close()
	client := redis.NewClient(inMemory(mini))
	defer client.Close()
	client.Ping(ctx) // it has a server from now on
	mini.Server().SetPreHook(func(_ *server.Peer, cmd string, args ...string) bool {
		if cmd == "EVAL" {
			names[fmt.Sprintf("%x", sha1.Sum([]byte(args[0])))] = firstLine(args[0])
		}
		return false
	})
	c, err := aside.NewRedis(client, aside.Config{})
	if err != nil {
		panic(err)
	}
	defer c.Close()
	b := c.(backend.Backend)
	_, _ = b.Lease(ctx, key, backend.LeaseRequest{TTL: time.Second})
	_, _ = b.Extend(ctx, "token", time.Second, key)
	_, _ = b.Fill(ctx, key, "token", backend.Fill{TTL: time.Second})
	_ = b.Release(ctx, key, "token")
	_ = c.Set(ctx, key, nil, time.Second)
	_ = c.Delete(ctx, key)
	_ = b.Block(ctx, "token", time.Second, key)
	_ = b.Unblock(ctx, "token", key)
	return names
})

func (n *network) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &connection{Conn: conn, n: n}, nil
	}
}

// connection is a connection of a process. The messages of a subscription are delayed or lost
// here, as hooks do not see them. They are read from Redis at once in any case: a publisher
// waits for that in miniredis.
type connection struct {
	net.Conn
	n      *network
	brings chan []byte // messages that have arrived; nil before it subscribes
	rest   []byte      // of the last message
}

func (c *connection) Write(p []byte) (int, error) {
	if c.brings == nil && bytes.Contains(p, []byte("subscribe")) {
		c.brings = make(chan []byte, 1000)
		go func() {
			defer close(c.brings)
			for {
				p := make([]byte, 4096)
				n, err := c.Conn.Read(p)
				if err != nil {
					return
				}
				c.brings <- p[:n]
			}
		}()
	}
	return c.Conn.Write(p)
}

func (c *connection) Read(p []byte) (int, error) {
	if c.brings == nil {
		return c.Conn.Read(p)
	}
	for len(c.rest) == 0 {
		text, ok := <-c.brings
		if !ok {
			return 0, io.EOF
		}
		arrives, err := c.n.bring(string(text))
		if err != nil {
			return 0, err
		}
		if arrives {
			c.rest = text
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// bring delays a message of a subscription, or loses it. An error means that the connection is
// lost with it.
func (n *network) bring(text string) (arrives bool, err error) {
	now, r := n.next(context.Background(), text)
	lost := r.Float64() < now.Lost
	switch {
	case lost && r.IntN(2) == 0:
		err = errReset
	case now.Refused, now.Hole, lost:
	default:
		arrives = true
		err = n.alive.sleep(context.Background(), now.Slow+time.Duration(r.Int64N(int64(now.Latency))))
	}
	n.trace("the subscription brings %q: %v, %v", text, arrives, err)
	return arrives, err
}

func (n *network) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "hello" { // the client's own, of a new connection
			return next(ctx, cmd)
		}
		sent := time.Now()
		err := n.send(ctx, nameOf(cmd),
			func(ctx context.Context) error { return next(ctx, cmd) },
			func(ctx context.Context) error { return next(ctx, redis.NewCmd(ctx, cmd.Args()...)) })
		if err != nil {
			cmd.SetErr(err)
		}
		n.trace("%s: %v, after %v", brief(cmd), err, time.Since(sent))
		return err
	}
}

// brief returns a command as text for the trace, with its script's name in place of the text.
func brief(cmd redis.Cmder) string {
	args := slices.Clone(cmd.Args())
	if cmd.Name() == "eval" || cmd.Name() == "evalsha" {
		args[1] = scriptOf(cmd)
	}
	for i, arg := range args {
		if data, ok := arg.([]byte); ok {
			args[i] = string(data)
		}
	}
	if reply, ok := cmd.(*redis.Cmd); ok && reply.Err() == nil {
		return fmt.Sprint(args, " = ", reply.Val())
	}
	return fmt.Sprint(args)
}

func (n *network) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		sent := time.Now()
		run := func(ctx context.Context) error { return next(ctx, cmds) }
		err := n.send(ctx, "pipeline", run, func(ctx context.Context) error {
			var copies []redis.Cmder
			for _, cmd := range cmds {
				copies = append(copies, redis.NewCmd(ctx, cmd.Args()...))
			}
			return next(ctx, copies)
		})
		if err != nil && (len(cmds) == 0 || cmds[0].Err() == nil) {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		if len(cmds) > 0 {
			n.trace("%d commands at once, the first %s: %v, after %v", len(cmds), brief(cmds[0]), err, time.Since(sent))
		}
		return err
	}
}

// send carries a command to Redis and its reply back, or loses one of them. A command may still
// be carried out after its caller has given it up: repeat does that, with a copy.
func (n *network) send(ctx context.Context, name string, run, repeat func(context.Context) error) error {
	if err := n.alive.sleep(ctx, 0); err != nil {
		return err
	}
	now, r := n.next(ctx, name)
	delay := func() time.Duration { return time.Duration(r.Int64N(int64(now.Latency))) }
	late := func() {
		if r.IntN(2) == 0 {
			after := time.Duration(r.Int64N(int64(5 * time.Second)))
			go func() {
				select {
				case <-time.After(after):
					err := repeat(context.WithoutCancel(ctx))
					n.trace("carried out late: %s: %v", name, err)
				case <-n.alive.over:
				}
			}()
		}
	}
	lost := r.Float64() < now.Lost
	switch {
	case now.Refused:
		return errRefused
	case now.Hole, lost && r.IntN(4) == 0: // no answer
		late()
		if err := n.alive.sleep(ctx, 3*time.Second); err != nil { // go-redis's ReadTimeout
			return err
		}
		return os.ErrDeadlineExceeded
	case lost && r.IntN(3) == 0: // the connection breaks before the command is read, or after
		late()
		return errReset
	case lost && r.IntN(3) == 0: // the client tries another connection, and the first one's copy comes late
		late()
		lost = false
	}
	if err := n.alive.sleep(ctx, now.Slow+delay()); err != nil {
		late()
		return err
	}
	err := run(context.WithoutCancel(ctx))
	if lost && r.IntN(2) == 0 { // the reply is lost, and the client sends the command again
		if err := n.alive.sleep(ctx, delay()); err != nil {
			return err
		}
		err = run(context.WithoutCancel(ctx))
	} else if lost {
		return errReset
	}
	if err := n.alive.sleep(ctx, delay()); err != nil {
		return err
	}
	return err
}
