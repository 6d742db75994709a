package main

import (
	"context"
	"math"
	"strconv"
	"sync"
	"time"
)

const (
	// troubleLoad is the time that a load takes.
	troubleLoad = time.Millisecond
	// troubleSlot is the time that a peer has for itself before the next one starts. A fast
	// one has finished by then. A slow one mostly waits, and may overlap with others.
	troubleSlot = 1500 * time.Millisecond
)

// troubleLimit returns the time after which a call is given up.
func (b *bench) troubleLimit() time.Duration {
	return time.Duration(b.scale(12_000, 500)) * time.Millisecond
}

// troubleJobs returns jobs that read through a Redis that refuses connections, and through one
// that hangs.
func (b *bench) troubleJobs() []job {
	visit := func(name string, fail func(*server) error) job {
		return job{
			name: "trouble/" + name,
			once: true,
			last: true,
			run:  func(ctx context.Context, b *bench) error { return b.trouble(ctx, "trouble/"+name, fail) },
		}
	}
	return []job{
		visit("refused", func(s *server) error { s.kill(); return nil }),
		visit("hangs", (*server).hang),
	}
}

// trouble opens each peer on a server of its own, lets the server fail, and makes calls.
func (b *bench) trouble(ctx context.Context, table string, fail func(*server) error) error {
	var wg sync.WaitGroup
	var servers []*server
	defer func() {
		wg.Wait()
		for _, s := range servers {
			s.stop() // ends the calls that still wait
		}
	}()
	for _, p := range peersOf("trouble", func(p peer) bool { return !p.memory && !p.shared }) {
		redis, err := startServer(ctx)
		if err != nil {
			return err
		}
		servers = append(servers, redis)
		st, err := b.openForTrouble(ctx, p, redis)
		if err != nil {
			return err
		}
		if err := fail(redis); err != nil {
			return err
		}
		done := make(chan struct{})
		wg.Go(func() {
			b.callInTrouble(ctx, table, p.name, st)
			close(done)
			go st.Close() // some never return
		})
		select {
		case <-done:
		case <-time.After(time.Duration(b.scale(int(troubleSlot), int(troubleSlot/30)))):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// openForTrouble opens p and makes a few calls, so that it is connected when Redis fails.
func (b *bench) openForTrouble(ctx context.Context, p peer, redis *server) (store, error) {
	src := &source{load: func(context.Context, string) ([]byte, error) {
		time.Sleep(troubleLoad)
		return append([]byte(nil), smallValue...), nil
	}}
	st, err := p.open(setup{addr: redis.addr, prefix: "trouble", source: src, entries: 10_000, maxBytes: 64 << 20})
	if err != nil {
		return nil, err
	}
	for i := range 3 {
		if err := b.kinds()[0].check(ctx, st, "before"+strconv.Itoa(i)); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// callInTrouble makes calls one after another, each for a key of its own and without a deadline.
// It gives up a call after a limit, and the peer after twice that.
func (b *bench) callInTrouble(ctx context.Context, table, row string, st store) {
	limit := b.troubleLimit()
	began := time.Now()
	var took []float64
	failed := 0
	for i := 0; i < b.scale(50, 5) && time.Since(began) < 2*limit && ctx.Err() == nil; i++ {
		call := time.Now()
		done := make(chan error, 1)
		go func() {
			v, err := st.Bytes(context.WithoutCancel(ctx), idOf(int64(i)))
			if err == nil && v != string(smallValue) {
				err = errWrongValue
			}
			done <- err
		}()
		select {
		case err := <-done:
			took = append(took, millis(time.Since(call)))
			if err != nil {
				failed++
			}
		case <-time.After(limit):
			took = append(took, math.Inf(1))
			failed++
		case <-ctx.Done():
			return
		}
	}
	m, _ := median(took)
	b.results.add(table, row, "median", m)
	b.results.add(table, row, "first", took[0])
	b.results.add(table, row, "failed", 100*float64(failed)/float64(len(took)))
	b.results.add(table, row, "calls", float64(len(took)))
}
