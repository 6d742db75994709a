package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// staleJobs returns jobs that race loads against writes in two clients, which stand for two
// processes, and count old values that are read or kept afterwards.
func (b *bench) staleJobs() []job {
	var jobs []job
	for _, p := range peersOf("stale", func(p peer) bool { return !p.memory && !p.shared }) {
		jobs = append(jobs, job{
			name: "stale/" + p.name,
			once: true,
			run:  func(ctx context.Context, b *bench) error { return b.stale(ctx, p) },
		})
	}
	for _, p := range peersOf("stale", isHeld) {
		jobs = append(jobs, job{
			name: "held/" + p.name,
			once: true,
			run:  func(ctx context.Context, b *bench) error { return b.held(ctx, p) },
		})
	}
	return jobs
}

// isHeld chooses this library, with and without near caches: how late their messages are
// differs between Invalidate and Update.
func isHeld(p peer) bool {
	return strings.HasPrefix(p.name, "aside") && !p.memory && !p.shared
}

// versions is a database in which each key has a version. It is 1 until the first write.
type versions struct {
	mu      sync.Mutex
	version map[string]int
}

func (v *versions) get(id string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return 1 + v.version[id]
}

func (v *versions) write(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.version[id]++
}

// load reads the version and returns it after up to 5 ms: a write within that time makes the
// result old before it is stored.
func (v *versions) load(_ context.Context, id string) ([]byte, error) {
	text := strconv.Itoa(v.get(id))
	time.Sleep(upTo5ms())
	return []byte(text), nil
}

func upTo5ms() time.Duration { return rand.N(5 * time.Millisecond) }

// staleRun is the race of one peer.
type staleRun struct {
	p       peer
	db      *versions
	clients [2]store
	late    atomic.Int64 // keys of which a read after the invalidation returned the old value
}

// startStale opens the clients of a race. Call stop after it, also when it fails.
func (b *bench) startStale(ctx context.Context, p peer) (s *staleRun, stop func(), err error) {
	s = &staleRun{p: p, db: &versions{version: make(map[string]int)}}
	stop = func() {
		for _, c := range s.clients {
			if c != nil {
				c.Close()
			}
		}
		// After the clients are closed: rueidisaside 1.0.78 hangs for ever when Redis is
		// flushed.
		_ = b.scratch.flush(ctx)
	}
	for i := range s.clients {
		s.clients[i], err = p.open(setup{addr: b.scratch.addr, prefix: "stale", source: &source{load: s.db.load}, entries: 10_000, maxBytes: 64 << 20})
		if err != nil {
			break
		}
	}
	return s, stop, err
}

func (b *bench) stale(ctx context.Context, p peer) error {
	s, stop, err := b.startStale(ctx, p)
	defer stop()
	if err != nil {
		return err
	}
	keys := ids(b.scale(1_000, 30))
	if err := each(16, len(keys), func(i int) error { return s.race(ctx, keys[i]) }); err != nil {
		return err
	}
	// Look twice, as the first look may start a refresh in the background.
	var old int64
	for range 2 {
		time.Sleep(100 * time.Millisecond)
		var err error
		if old, err = s.old(ctx, keys); err != nil {
			return err
		}
	}
	share := 1000 / float64(len(keys))
	b.results.add("stale", p.name, "kept", share*float64(old))
	b.results.add("stale", p.name, "late", share*float64(s.late.Load()))
	return nil
}

// held counts late reads of keys that both clients have read before, so that near caches hold
// them.
func (b *bench) held(ctx context.Context, p peer) error {
	s, stop, err := b.startStale(ctx, p)
	defer stop()
	if err != nil {
		return err
	}
	n := b.scale(1_000, 30)
	keys := ids(len(heldAtOnce) * n)
	for round, atOnce := range heldAtOnce {
		s.late.Store(0)
		err := each(atOnce, n, func(i int) error { return s.hold(ctx, keys[round*n+i]) })
		if err != nil {
			return err
		}
		b.results.add("held", p.name, strconv.Itoa(atOnce), 1000/float64(n)*float64(s.late.Load()))
	}
	return nil
}

// heldAtOnce has the numbers of keys that are written at a time.
var heldAtOnce = []int{1, 16}

// hold has both clients hold id, writes it in the first, and counts the key as late if a read of
// the second that begins then returns the old value.
func (s *staleRun) hold(ctx context.Context, id string) error {
	for range 2 { // the second read is a hit
		for _, c := range s.clients {
			if _, err := s.version(ctx, c, id); err != nil {
				return err
			}
		}
	}
	if err := s.write(ctx, id); err != nil {
		return err
	}
	v, err := s.version(ctx, s.clients[1], id)
	if err == nil && v < 2 {
		s.late.Add(1)
	}
	return err
}

// race lets both clients load id, and writes and invalidates it meanwhile. A read that begins
// afterwards must return the new value.
func (s *staleRun) race(ctx context.Context, id string) error {
	errs := make(chan error, 2*len(s.clients))
	for _, c := range s.clients {
		go func() {
			time.Sleep(upTo5ms())
			_, err := s.version(ctx, c, id)
			errs <- err
		}()
	}
	time.Sleep(upTo5ms())
	if err := s.write(ctx, id); err != nil {
		return err
	}
	var late atomic.Bool
	for _, c := range s.clients {
		go func() {
			v, err := s.version(ctx, c, id)
			if err == nil && v < 2 {
				late.Store(true)
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			return err
		}
	}
	if late.Load() {
		s.late.Add(1)
	}
	return nil
}

// write writes id in the first client, with Update if the peer has it, or else with an
// invalidation afterwards.
func (s *staleRun) write(ctx context.Context, id string) error {
	change := func(context.Context) error { s.db.write(id); return nil }
	if s.p.updates {
		return s.clients[0].(updater).Update(ctx, id, change)
	}
	_ = change(ctx)
	return s.clients[0].Invalidate(ctx, id)
}

// old counts the keys of which a client returns the old value.
func (s *staleRun) old(ctx context.Context, keys []string) (int64, error) {
	var n atomic.Int64
	err := each(16, len(keys), func(i int) error {
		for _, c := range s.clients {
			v, err := s.version(ctx, c, keys[i])
			if err != nil {
				return err
			}
			if v < 2 {
				n.Add(1)
				break
			}
		}
		return nil
	})
	return n.Load(), err
}

func (s *staleRun) version(ctx context.Context, c store, id string) (int, error) {
	text, err := c.Bytes(ctx, id)
	if err != nil {
		return 0, err
	}
	v, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%w: %q", errWrongValue, text)
	}
	return v, nil
}
