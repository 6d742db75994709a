package aside

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/cacheaside/aside/backend"
)

const (
	// cancelPoll is how often a process looks for cancel signals of the
	// generations that run in it.
	cancelPoll = 100 * time.Millisecond
	// pollers is how many signals it looks for at a time.
	pollers = 512
	// retryClaim is how long it waits to write a generation's key once it could not.
	retryClaim = time.Second
)

// Generations keeps the state of AI replies that are being generated, at most one
// a chat room, in all processes that share the cache's backend: the key
// [GenerationKey] exists while one runs, and [CancelKey] asks it to stop. Other
// programs may read and set these keys. While the backend is away, and with one
// that stores nothing, it works within the process.
//
// Make one per process and share it. Its methods may be called concurrently.
type Generations struct {
	cache Cache
	f     *front

	mu      sync.Mutex
	active  map[string]*Generation
	ending  map[*Generation]bool // finished, but their keys may still be there
	polling bool
}

// Generation is a reply that is being generated. Finish it.
type Generation struct {
	all    *Generations
	chatID string
	ctx    context.Context
	cancel context.CancelCauseFunc

	token string        // names this one as the key's owner
	turn  chan struct{} // holds one while the key is claimed, kept or removed; mu is not held that long

	mu       sync.Mutex
	claimed  bool      // the key may be there, and ours: a claim was answered, or its answer lost
	held     bool      // it is
	taken    bool      // another process has the key
	older    []byte    // is in the cancel signal from before the claim: see mark
	claimAt  time.Time // when to write the key next
	until    time.Time // when the key has expired unless it is written again
	finished bool
}

// NewGenerations returns Generations that are kept in c.
func NewGenerations(c Cache) (*Generations, error) {
	f, err := frontOf(c)
	if err != nil {
		return nil, err
	}
	return &Generations{cache: f, f: f, active: make(map[string]*Generation), ending: make(map[*Generation]bool)}, nil
}

// Start begins a generation in a chat room. It returns [ErrGenerating] when one
// is running, in this process or another. The key is kept until Finish, however
// long that takes; if the process dies, it goes after its time to live, 5
// minutes. A backend that is away is no error: the key is written when it is
// back.
func (gs *Generations) Start(ctx context.Context, chatID string) (*Generation, error) {
	key := GenerationKey(chatID)
	if err := key.check(); err != nil {
		return nil, err
	}
	if gs.f.life.IsClosed() {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	g := &Generation{all: gs, chatID: chatID, token: rand.Text(), turn: make(chan struct{}, 1)}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	budget := gs.f.newBudget()
	done, _ := g.takeTurn(budget) // until it has started, nobody else touches its key
	defer done()

	gs.mu.Lock()
	if gs.active[chatID] != nil {
		gs.mu.Unlock()
		g.cancel(ErrGenerating)
		return nil, ErrGenerating
	}
	gs.active[chatID] = g
	gs.mu.Unlock()
	for _, ended := range gs.endingIn(chatID) {
		ended.end(budget)
	}
	g.claim(ctx, budget)
	switch {
	case ctx.Err() != nil:
		gs.retire(g)
		gs.f.life.Go(func() { g.end(gs.f.newBudget()) })
		return nil, ctx.Err()
	case g.isTaken():
		gs.remove(g)
		g.cancel(ErrGenerating)
		return nil, ErrGenerating
	}
	gs.poll()
	return g, nil
}

// Context returns the context to generate with: Start's, which also ends when
// someone cancels the generation, with [ErrCancelled] as its [context.Cause],
// and when it is finished.
func (g *Generation) Context() context.Context { return g.ctx }

// Finish ends the generation: the room's messages, which the caller has saved by
// now, are invalidated, and the generation's keys removed, now or when the
// backend is back. Keys that another process has taken since are left alone.
// Finishing twice is not an error.
func (g *Generation) Finish() {
	g.mu.Lock()
	if g.finished {
		g.mu.Unlock()
		return
	}
	g.finished = true
	g.mu.Unlock()
	g.cancel(nil)

	f, budget := g.all.f, g.all.f.newBudget()
	messages := f.name(ChatMessages(g.chatID).String())
	if err := f.invalidate(g.ctx, budget, messages); err != nil { // else it is queued at worst
		f.warnOnce(&chatMessages, messages, "cache: messages are not invalidated, as their generation was finished after Close (logged once)", err)
	}
	g.all.retire(g)
	g.end(budget)
}

// takeTurn waits until nobody else is at the generation's key, as long as the budget
// lasts: the other may be waiting for a backend that does not answer.
func (g *Generation) takeTurn(b *budget) (done func(), ok bool) {
	done = func() { <-g.turn }
	select {
	case g.turn <- struct{}{}:
		return done, true
	default:
	}
	begun := time.Now()
	defer func() { b.left -= time.Since(begun) }()
	timer := time.NewTimer(max(0, b.left))
	defer timer.Stop()
	select {
	case g.turn <- struct{}{}:
		return done, true
	case <-timer.C:
		return nil, false
	}
}

func (g *Generation) isTaken() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken
}

func (g *Generation) isClaimed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.claimed
}

// Cancel asks the room's generation to stop, in whichever process it runs; its
// context ends within 250 ms. It returns [ErrNotGenerating] when none runs, and
// [ErrUnavailable] when none runs in this process and the backend is away.
func (gs *Generations) Cancel(ctx context.Context, chatID string) error {
	key := GenerationKey(chatID)
	if err := key.check(); err != nil {
		return err
	}
	own := gs.own(chatID)
	if own != nil {
		own.cancel(ErrCancelled)
		if own.isClaimed() {
			return nil
		}
		// Its Start has not been answered: what runs may be another process's.
	}
	running, err := gs.keyed(ctx, key)
	switch {
	case own != nil && (err != nil || !running):
		return nil
	case err != nil:
		return err
	case !running:
		return ErrNotGenerating
	}
	return gs.cache.Set(ctx, CancelKey(chatID).String(), []byte("1"), gs.f.ttl.base(&cancelSignal))
}

// Running reports whether a generation runs in the room, in any process. One that
// was cancelled runs until it is finished.
func (gs *Generations) Running(ctx context.Context, chatID string) (bool, error) {
	key := GenerationKey(chatID)
	if err := key.check(); err != nil {
		return false, err
	}
	if gs.own(chatID) != nil {
		return true, nil
	}
	return gs.keyed(ctx, key)
}

// keyed reports whether the backend has the key.
func (gs *Generations) keyed(ctx context.Context, key Key) (bool, error) {
	got, err := gs.f.get(ctx, gs.f.name(key.text), gs.f.newBudget())
	return got.ok, err
}

// own returns the room's generation in this process, unless another process has
// taken its key.
func (gs *Generations) own(chatID string) *Generation {
	gs.mu.Lock()
	g := gs.active[chatID]
	gs.mu.Unlock()
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.taken || g.finished {
		return nil
	}
	return g
}

func (gs *Generations) remove(g *Generation) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.active[g.chatID] == g {
		delete(gs.active, g.chatID)
	}
}

// retire takes g off what is running. Its key may still be there.
func (gs *Generations) retire(g *Generation) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.ending[g] = true
	if gs.active[g.chatID] == g {
		delete(gs.active, g.chatID)
	}
}

// endingIn returns the room's generations that are finished but whose keys may
// still be there.
func (gs *Generations) endingIn(chatID string) (out []*Generation) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for g := range gs.ending {
		if g.chatID == chatID {
			out = append(out, g)
		}
	}
	return out
}

// claim writes the key if there is none. It needs the turn.
//
// A cancel signal that is there before the first claim is older than the generation,
// and must not end it. So it is marked before, and removed once the key is claimed.
// While it cannot be marked there is no claim, and no Cancel in another process that
// could succeed.
func (g *Generation) claim(ctx context.Context, b *budget) {
	f, ttl := g.all.f, g.all.f.ttl.base(&generation)
	sent := time.Now()
	g.mu.Lock()
	g.claimAt = sent.Add(retryClaim)
	first := !g.claimed
	g.mu.Unlock()
	if len(g.all.endingIn(g.chatID)) > 0 { // the key there may be that of one of ours
		return
	}
	var mark string
	if first {
		signal, key := g.read(ctx, b)
		var err error
		if signal.err == nil && key.err == nil && !key.ok {
			mark, err = g.mark(ctx, b, signal)
		}
		g.mu.Lock()
		g.taken, g.older = key.ok, nil
		if mark != "" {
			g.older = []byte(mark)
		}
		g.mu.Unlock()
		if key.ok {
			// A request that cannot be granted has the backend see to a claim whose time
			// is longer than a claim's, since its clock was set back.
			_, _ = f.lease(ctx, f.name(GenerationKey(g.chatID).String()), b, backend.LeaseRequest{TTL: ttl, Undecodable: []byte(g.token), Claim: []byte("1"), Owner: g.token})
		}
		if key.ok || errors.Join(signal.err, key.err, err) != nil {
			return
		}
	}
	// What the front distrusts are values that were loaded, not this.
	l, err := f.lease(ctx, f.name(GenerationKey(g.chatID).String()), b, backend.LeaseRequest{TTL: ttl, Claim: []byte("1"), Owner: g.token})
	g.mu.Lock()
	switch {
	case err != nil:
		g.claimed, g.until = true, sent.Add(ttl+f.cfg.Timeout)
	case l.State == backend.Granted:
		g.owns(sent, ttl)
	case l.State == backend.Present:
		g.taken = true
	}
	g.mu.Unlock()
	if mark != "" && err == nil && l.State == backend.Granted {
		_ = f.release(ctx, f.name(CancelKey(g.chatID).String()), b, mark) // else it expires
	}
}

// mark makes the cancel signal that was read one that can be told from any that comes
// later: a claim of its own, with a name that stands in its value behind those of
// earlier marks. It still is a signal for everybody else. A mark that is carried out
// late makes no signal where there is none, and releasing it removes no other one.
// mark is empty when the signal has gone.
func (g *Generation) mark(ctx context.Context, b *budget, signal found) (mark string, err error) {
	f := g.all.f
	for signal.ok {
		mark = rand.Text() // a name for each attempt, as one that got no answer may be carried out later
		bad := append([]byte{}, signal.value...)
		l, err := f.lease(ctx, f.name(CancelKey(g.chatID).String()), b, backend.LeaseRequest{
			TTL: f.ttl.base(&cancelSignal), Undecodable: bad, Claim: append(bad[:len(bad):len(bad)], " "+mark...), Owner: mark,
		})
		if err != nil || l.State == backend.Granted {
			return mark, err
		}
		signal = found{value: l.Value, ok: l.State == backend.Present} // it has changed
	}
	return "", nil
}

// read returns what there is under the keys cancel and generation, which it asks for
// at once.
func (g *Generation) read(ctx context.Context, b *budget) (signal, key found) {
	f, other := g.all.f, *b
	var group sync.WaitGroup
	group.Go(func() { key, key.err = f.get(ctx, f.name(GenerationKey(g.chatID).String()), &other) })
	signal, signal.err = f.get(ctx, f.name(CancelKey(g.chatID).String()), b)
	group.Wait()
	b.left = min(b.left, other.left)
	return signal, key
}

// owns needs g.mu.
func (g *Generation) owns(sent time.Time, ttl time.Duration) {
	g.claimed, g.held, g.until = true, true, time.Now().Add(ttl)
	g.claimAt = sent.Add(ttl / 3)
}

// keepClaim keeps the key, or claims it when it is gone or never was there. gone says that
// it has just been looked for and was not there: then there is no reason to wait.
func (g *Generation) keepClaim(ctx context.Context, b *budget, gone bool) {
	done, ok := g.takeTurn(b)
	if !ok {
		return
	}
	defer done()
	g.mu.Lock()
	now := gone && (g.held || !g.claimed)
	if gone {
		g.held = false
	}
	idle, held := g.finished || g.taken || !now && time.Now().Before(g.claimAt), g.held
	g.mu.Unlock()
	if idle {
		return
	}
	if !held || !g.extend(ctx) {
		g.claim(ctx, b)
	}
}

// extend keeps the key, and reports whether it is still there, as far as is known.
func (g *Generation) extend(ctx context.Context) (held bool) {
	ttl := g.all.f.ttl.base(&generation)
	sent := time.Now()
	held, err := g.all.f.extend(ctx, g.all.f.name(GenerationKey(g.chatID).String()), g.token, ttl)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err != nil:
		g.claimAt = sent.Add(retryClaim)
		g.until = time.Now().Add(ttl) // it may have been extended
		return true
	case held:
		g.owns(sent, ttl)
	default:
		g.held = false
	}
	return held
}

// end removes the keys of a finished generation, or leaves it among the ending
// for the next time. A key that is another's is not touched: the token differs.
func (g *Generation) end(b *budget) {
	gs := g.all
	done, ok := g.takeTurn(b)
	if !ok {
		gs.poll()
		return
	}
	defer done()
	if g.isThere() {
		g.removeSignal(b)
		err := gs.f.release(context.Background(), gs.f.name(GenerationKey(g.chatID).String()), b, g.token)
		if err != nil && !errors.Is(err, ErrClosed) {
			gs.poll()
			return
		}
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	delete(gs.ending, g)
}

// isThere reports whether the key may be there, and ours.
func (g *Generation) isThere() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.claimed && time.Now().Before(g.until)
}

// removeSignal removes the cancel signal that is there while the generation has its
// key: it has been handled, or comes too late. One that cannot be removed expires,
// and the next generation knows it for what it is.
func (g *Generation) removeSignal(b *budget) {
	ctx, f, signal := context.Background(), g.all.f, g.all.f.name(CancelKey(g.chatID).String())
	got, err := f.get(ctx, signal, b)
	if err != nil || g.isTaken() {
		return
	}
	mark, err := g.mark(ctx, b, got)
	if err == nil && mark != "" && g.isThere() { // it had the key when the signal was marked
		_ = f.release(ctx, signal, b, mark)
	}
}

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
