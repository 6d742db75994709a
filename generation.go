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
	// cancelPoll is the interval at which a process looks for cancel signals of its own
	// generations.
	cancelPoll = 100 * time.Millisecond
	// pollers is how many generations are looked after at a time.
	pollers = 512
	// retryClaim is how long it waits after it could not write a generation's key.
	retryClaim = time.Second
)

// Generations keeps the state of AI replies that are being generated: at most one in a
// chat room, in all processes that share the cache's backend. The key [GenerationKey]
// exists while one runs, and [CancelKey] asks it to stop. Other programs may read and set
// these keys. While the backend is unavailable, or stores nothing, the rule of one per
// room holds within the process only.
//
// Make one Generations per process and share it. Its methods may be called concurrently.
type Generations struct {
	cache Cache
	f     *front

	mu      sync.Mutex
	active  map[string]*Generation
	ending  map[*Generation]bool // finished, while the backend may still have their keys
	polling bool
}

// Generation is one reply that is being generated. [Generations.Start] returns it, and
// the caller must call Finish.
type Generation struct {
	all    *Generations
	chatID string
	ctx    context.Context
	cancel context.CancelCauseFunc

	token string        // the claim's Owner: tells this generation's key from another's
	turn  chan struct{} // a lock of the key, held across commands to the backend, which mu never is

	mu       sync.Mutex
	claimed  bool      // the backend may have our key: a claim was granted, or its answer lost
	held     bool      // the backend has our key, as of the last answer
	taken    bool      // another process has the key
	older    []byte    // the mark in a cancel signal from before the claim: see mark
	claimAt  time.Time // when to extend or claim the key next
	until    time.Time // when the key has expired unless it is extended
	finished bool
}

// NewGenerations returns Generations that keep their keys in c.
func NewGenerations(c Cache) (*Generations, error) {
	f, err := frontOf(c)
	if err != nil {
		return nil, err
	}
	return &Generations{cache: f, f: f, active: make(map[string]*Generation), ending: make(map[*Generation]bool)}, nil
}

// Start begins a generation in a chat room. It returns [ErrGenerating] if one is running,
// in this process or another. The key is kept until Finish, however long that takes. If
// the process dies, the key expires after its time to live, 5 minutes by default. An
// unavailable backend is not an error: the key is written once the backend is available
// again.
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
	done, _ := g.takeTurn(budget) // so that the poller leaves the key alone until Start is done
	defer done()

	gs.mu.Lock()
	if gs.active[chatID] != nil {
		gs.mu.Unlock()
		g.cancel(ErrGenerating)
		return nil, ErrGenerating
	}
	gs.active[chatID] = g
	gs.mu.Unlock()
	// Their keys would make the claim fail as another process's would.
	for _, ended := range gs.endingIn(chatID) {
		ended.end(budget)
	}
	g.claim(ctx, budget)
	switch {
	case ctx.Err() != nil:
		// The claim may have been carried out, so its key must be removed, without the caller.
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

// Context returns the context to generate with. It is derived from Start's, and ends when
// the generation is cancelled, with [ErrCancelled] as its [context.Cause], or finished.
func (g *Generation) Context() context.Context { return g.ctx }

// Finish ends the generation. It invalidates the room's messages, which the caller must
// have saved before, and removes the generation's keys, at once or when the backend is
// available again. Keys that another process has claimed since are left as they are.
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
	if err := f.invalidate(g.ctx, budget, messages); err != nil { // only after Close: otherwise it is queued
		f.warnOnce(&chatMessages, messages, "aside: generation finished after Close; messages not invalidated (logged once)", err)
	}
	g.all.retire(g)
	g.end(budget)
}

// takeTurn locks the generation's key, waiting for at most the rest of the budget: the
// holder may be waiting for a backend that does not answer. The wait is charged to the
// budget.
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

// isTaken reports whether another process has the key.
func (g *Generation) isTaken() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken
}

// isClaimed reports whether the backend may have the key of this generation.
func (g *Generation) isClaimed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.claimed
}

// Cancel asks the room's generation to stop, in whichever process it runs. While the
// backend is available, the generation's context ends within 250 ms. Cancel returns
// [ErrNotGenerating] if none runs, and [ErrUnavailable] if none runs in this process and
// the backend is unavailable.
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
		// Its Start has no answer yet, so the running generation may be another process's.
	}
	running, err := gs.keyed(ctx, key)
	switch {
	case own != nil && (err != nil || !running): // this process's is cancelled already
		return nil
	case err != nil:
		return err
	case !running:
		return ErrNotGenerating
	}
	return gs.cache.Set(ctx, CancelKey(chatID).String(), []byte("1"), gs.f.ttl.base(&cancelSignal))
}

// Running reports whether a generation runs in the room, in any process. A cancelled
// generation runs until it is finished.
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

// remove takes a generation that never had its key out of the active ones.
func (gs *Generations) remove(g *Generation) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.active[g.chatID] == g {
		delete(gs.active, g.chatID)
	}
}

// retire moves a generation from the active to the ending ones, as the backend may still
// have its key.
func (gs *Generations) retire(g *Generation) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.ending[g] = true
	if gs.active[g.chatID] == g {
		delete(gs.active, g.chatID)
	}
}

// endingIn returns the room's finished generations that may still have keys in the
// backend.
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

// claim writes the key if there is none. The caller must hold the turn.
//
// A cancel signal that is there before the first claim is older than the generation and
// must not end it. So it is marked before the claim, and removed after. While it cannot
// be marked there is no claim, and so no Cancel in another process that could succeed and
// be lost.
func (g *Generation) claim(ctx context.Context, b *budget) {
	f, ttl := g.all.f, g.all.f.ttl.base(&generation)
	sent := time.Now()
	g.mu.Lock()
	g.claimAt = sent.Add(retryClaim)
	first := !g.claimed
	g.mu.Unlock()
	if len(g.all.endingIn(g.chatID)) > 0 { // the key may be an earlier generation's of this process
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
			// This request cannot be granted. It makes the backend shorten a claim that
			// would last too long because the backend's clock was set back.
			_, _ = f.lease(ctx, f.name(GenerationKey(g.chatID).String()), b, backend.LeaseRequest{TTL: ttl, Undecodable: []byte(g.token), Claim: []byte("1"), Owner: g.token})
		}
		if key.ok || errors.Join(signal.err, key.err, err) != nil {
			return
		}
	}
	// A distrusted key does not matter here: distrust concerns values that were loaded.
	l, err := f.lease(ctx, f.name(GenerationKey(g.chatID).String()), b, backend.LeaseRequest{TTL: ttl, Claim: []byte("1"), Owner: g.token})
	g.mu.Lock()
	switch {
	case err != nil: // it may have been granted, or be granted within the budget
		g.claimed, g.until = true, sent.Add(ttl+f.cfg.Timeout)
	case l.State == backend.Granted:
		g.owns(sent, ttl)
	case l.State == backend.Present:
		g.taken = true
	}
	g.mu.Unlock()
	if mark != "" && err == nil && l.State == backend.Granted {
		_ = f.release(ctx, f.name(CancelKey(g.chatID).String()), b, mark) // a signal that is left expires
	}
}

// mark makes the cancel signal that was read distinguishable from later ones. It replaces
// the signal by a claim of its own, with the old value and the mark's name behind it, so
// that other processes still see a signal. mark is empty if the signal has gone.
//
// The conditions are the claim's: a mark that is carried out late creates no signal where
// there is none, and releasing it removes no other signal. A plain SET and DEL would do
// both.
func (g *Generation) mark(ctx context.Context, b *budget, signal found) (mark string, err error) {
	f := g.all.f
	for signal.ok {
		mark = rand.Text() // a new name per attempt: one without an answer may be carried out later
		bad := append([]byte{}, signal.value...)
		l, err := f.lease(ctx, f.name(CancelKey(g.chatID).String()), b, backend.LeaseRequest{
			TTL: f.ttl.base(&cancelSignal), Undecodable: bad, Claim: append(bad[:len(bad):len(bad)], " "+mark...), Owner: mark,
		})
		if err != nil || l.State == backend.Granted {
			return mark, err
		}
		signal = found{value: l.Value, ok: l.State == backend.Present} // the signal has changed
	}
	return "", nil
}

// read returns the values of the keys cancel and generation, requested at the same time.
func (g *Generation) read(ctx context.Context, b *budget) (signal, key found) {
	f, other := g.all.f, *b
	var group sync.WaitGroup
	group.Go(func() { key, key.err = f.get(ctx, f.name(GenerationKey(g.chatID).String()), &other) })
	signal, signal.err = f.get(ctx, f.name(CancelKey(g.chatID).String()), b)
	group.Wait()
	b.left = min(b.left, other.left)
	return signal, key
}

// owns notes that the backend has the key. The caller must hold g.mu.
func (g *Generation) owns(sent time.Time, ttl time.Duration) {
	g.claimed, g.held, g.until = true, true, time.Now().Add(ttl)
	g.claimAt = sent.Add(ttl / 3)
}

// keepClaim extends the key, or claims it if it is gone or was never there. gone says
// that it was just found missing, so that the claim need not wait for claimAt.
func (g *Generation) keepClaim(ctx context.Context, b *budget, gone bool) {
	done, ok := g.takeTurn(b)
	if !ok {
		return
	}
	defer done()
	g.mu.Lock()
	now := gone && (g.held || !g.claimed) // not waiting for claimAt
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

// extend extends the key, and reports whether it is still there. Without an answer it
// assumes so.
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

// end removes the keys of a finished generation. If it cannot, the generation stays among
// the ending ones for the next poll. A key of another generation is safe: its token
// differs.
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

// isThere reports whether the backend may have the key of this generation.
func (g *Generation) isThere() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.claimed && time.Now().Before(g.until)
}

// removeSignal removes a cancel signal that is there while this generation has the key:
// it was obeyed, or came too late. A signal that cannot be removed expires, and the next
// generation marks it as older.
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

// poll starts the poller unless it runs. There is one per process, not one per
// generation, so that the commands of a tick can share round trips.
func (gs *Generations) poll() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.polling {
		return
	}
	gs.polling = true
	gs.f.life.Go(gs.pollAll)
}

// pollAll looks for cancel signals, extends the keys of running generations, and removes
// those of finished ones, until there are neither.
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
		slots := make(chan struct{}, pollers) // limits how many commands are on their way
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

// snapshot copies the generations to look after. If there are none, it also notes that
// the poller stops, under the same lock, so that a Start in between starts a new one.
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

// look ends the generation's context if there is a cancel signal, and keeps its key.
// Finish removes the signal.
func (g *Generation) look(ctx context.Context) {
	g.mu.Lock()
	skip, claimed, older := g.finished || g.taken, g.claimed, g.older
	g.mu.Unlock()
	if skip {
		return
	}
	budget := g.all.f.newBudget()
	signal, key := g.read(ctx, budget)
	// A signal that was read before the claim may be an older one without a mark.
	if signal.ok && claimed && (older == nil || !bytes.Contains(signal.value, older)) {
		g.cancel(ErrCancelled)
	}
	g.keepClaim(ctx, budget, key.err == nil && !key.ok)
}
