package proof

import (
	"context"
	"errors"
	"time"

	"github.com/cacheaside/aside"
)

// The generations of the simulation are in one room, the messages of which are the last of rows.
// A run with faults checks that they leave nothing behind, and the history of the messages. A
// calm run also checks that there is one at a time, and that a cancel arrives. Their callers
// have no deadlines, as a Start without a reply in time starts nevertheless.

const roomID = "A"

func (p *process) generate(ctx context.Context, id int) {
	if p.calm {
		ctx = context.WithoutCancel(ctx)
	}
	p.mu.Lock()
	p.changing++
	p.mu.Unlock()
	called := p.now()
	p.trace("process %d: call %d starts a generation", p.number, id)
	g, err := p.gens.Start(ctx, roomID)
	p.mu.Lock()
	p.changing--
	idle := p.changing == 0 && len(p.generating) == 0 && p.lastGeneration < called
	if err != nil && !errors.Is(err, aside.ErrGenerating) {
		p.lastGeneration = p.now() + int64(time.Second) // its key, if it was claimed, goes in a moment
	}
	p.mu.Unlock()
	p.trace("process %d: call %d started a generation: %v", p.number, id, err)
	switch {
	case p.ended():
		return
	case errors.Is(err, aside.ErrGenerating):
		if p.calm && idle {
			p.fail("process %d: Start said that a generation runs, and none does", p.number)
		}
		return
	case err != nil:
		if ctx.Err() == nil {
			p.fail("process %d: Start returned %w", p.number, err)
		}
		return
	}
	p.mu.Lock()
	if p.generating[g] = true; p.calm && len(p.generating) > 1 {
		defer p.fail("process %d: a generation started while another one ran", p.number)
	}
	p.mu.Unlock()

	r := draws(p.seed, "generation ", id)
	_ = p.sleep(g.Context(), 4*lasts(r))
	if p.ended() {
		return
	}
	// The reply is saved.
	o := &op{Key: rows[2].String(), Process: p.number, Kind: invalidate, Call: p.now()}
	p.commit(rows[2], o)
	p.mu.Lock()
	delete(p.generating, g)
	p.changing++
	p.mu.Unlock()
	p.trace("process %d: call %d finishes its generation", p.number, id)
	g.Finish()
	p.trace("process %d: call %d finished its generation", p.number, id)
	p.mu.Lock()
	p.changing--
	p.lastGeneration = p.now()
	p.mu.Unlock()
	p.returned(o)
}

func (p *process) cancelGeneration(ctx context.Context, id int) {
	if p.calm {
		ctx = context.WithoutCancel(ctx)
	}
	p.mu.Lock()
	var running *aside.Generation
	for g := range p.generating {
		running = g
	}
	p.mu.Unlock()
	p.trace("process %d: call %d cancels the generation", p.number, id)
	err := p.gens.Cancel(ctx, roomID)
	p.trace("process %d: call %d cancelled the generation: %v", p.number, id, err)
	if p.ended() || ctx.Err() != nil || errors.Is(err, aside.ErrUnavailable) && !p.calm {
		return
	}
	if err != nil && !errors.Is(err, aside.ErrNotGenerating) {
		p.fail("process %d: Cancel returned %w", p.number, err)
	}
	if !p.calm || running == nil {
		return
	}
	_ = p.sleep(running.Context(), 250*time.Millisecond)
	if running.Context().Err() == nil {
		p.fail("process %d: 250ms after Cancel returned %v the generation goes on", p.number, err)
	}
}
