package aside

import (
	"bytes"
	"context"
	"sync"
	"time"
)

// poll starts the process's one poller, unless it runs.
func (gs *Generations) poll() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.polling {
		return
	}
	gs.polling = true
	gs.f.life.Go(gs.pollAll)
}

// pollAll looks for cancel signals, keeps the keys of what is running and
// removes those of what has ended, until there is nothing left to look after.
func (gs *Generations) pollAll() {
	tick := time.NewTicker(cancelPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-gs.f.life.Context().Done():
			return
		}
		active, ending, idle := gs.snapshot()
		if idle {
			return
		}
		var group sync.WaitGroup
		slots := make(chan struct{}, pollers)
		for _, g := range active {
			slots <- struct{}{}
			group.Go(func() {
				g.look(gs.f.life.Context())
				<-slots
			})
		}
		for _, g := range ending {
			slots <- struct{}{}
			group.Go(func() {
				g.end(gs.f.newBudget())
				<-slots
			})
		}
		group.Wait()
	}
}

func (gs *Generations) snapshot() (active, ending []*Generation, idle bool) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, g := range gs.active {
		active = append(active, g)
	}
	for g := range gs.ending {
		ending = append(ending, g)
	}
	if idle = len(active)+len(ending) == 0; idle {
		gs.polling = false
	}
	return active, ending, idle
}

// look ends the generation's context when there is a cancel signal, which Finish
// removes, and keeps the generation's key.
func (g *Generation) look(ctx context.Context) {
	g.mu.Lock()
	skip, claimed, older := g.finished || g.taken, g.claimed, g.older
	g.mu.Unlock()
	if skip {
		return
	}
	budget := g.all.f.newBudget()
	signal, key := g.read(ctx, budget)
	// Without a claim when it was read, it may be one from before that is not marked yet.
	if signal.ok && claimed && (older == nil || !bytes.Contains(signal.value, older)) {
		g.cancel(ErrCancelled)
	}
	g.keepClaim(ctx, budget, key.err == nil && !key.ok)
}
