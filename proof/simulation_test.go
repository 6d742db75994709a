package proof

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

var (
	seeds = flag.Int("seeds", 500, "how many runs to simulate")
	seed  = flag.Uint64("seed", 0, "the one run to simulate, with a trace of what happens in it")
)

// TestSimulation runs processes that read and write the same rows through one Redis, in virtual
// time, while the network, Redis and the processes themselves fail. The seed of a run decides
// the events and their times. Each run ends with a time without faults, after which its history
// is checked, and that nothing is left behind in Redis.
func TestSimulation(t *testing.T) {
	t.Parallel()
	if *seed != 0 {
		simulate(t, *seed, true)
		return
	}
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for s := next.Add(1); s <= uint64(*seeds) && !t.Failed(); s = next.Add(1) {
				simulate(t, s, false)
			}
		})
	}
	wg.Wait()
}

// The same seed gives the same run, or one of a few: in some runs the scheduler decides ties,
// as when more calls of a process read at one instant than commands are sent at a time, and
// the others share a command.
func TestSimulation_Replays(t *testing.T) {
	t.Parallel()
	const few = 6
	ties := 0
	for s := uint64(1); s <= 100; s++ {
		var seen []string
		run := simulate(t, s, false)
		for ; !slices.Contains(seen, run) && len(seen) < few; run = simulate(t, s, false) {
			seen = append(seen, run)
		}
		if len(seen) > 1 {
			ties++
		}
		if !slices.Contains(seen, run) || ties > 10 {
			t.Errorf("seed %d, or %d of the first ones, is not the same again:\n%s", s, ties, strings.Join(seen, "\n"))
		}
	}
}

// simulate does one run and returns its history as text.
func simulate(t *testing.T, seed uint64, trace bool) (history string) {
	defer func() {
		if p := recover(); p != nil { // of synctest: goroutines that are left behind
			stacks := make([]byte, 1<<20)
			t.Errorf("seed %d: %v\n%s", seed, p, stacks[:runtime.Stack(stacks, true)])
		}
	}()
	var failure error
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(seed)
		if trace {
			w.trace = func(format string, args ...any) {
				fmt.Printf("%13v  %s\n", time.Since(w.start), fmt.Sprintf(format, args...))
			}
		}
		failure = w.run()
		history = describe(w.history.ops)
	})
	if failure != nil {
		t.Errorf("seed %d (go test ./proof -run TestSimulation$ -seed %d shows the run): %v", seed, seed, failure)
	}
	return history
}

// world is one run.
type world struct {
	seed      uint64
	rand      *rand.Rand // of the driver
	start     time.Time
	redis     *miniredis.Miniredis
	admin     *redis.Client // without faults
	history   history
	trace     func(format string, args ...any)
	over      chan struct{}
	calls     sync.WaitGroup // of living processes
	calm      bool           // this run has no faults
	space     aside.Keyspace // rowSpace, in some runs with Share or RefreshAfter
	refreshes bool           // this run has keyspaces with RefreshAfter
	rows      []aside.Key    // of this run
	writing   int            // the share of writes, in 100 steps

	mu             sync.Mutex
	db             map[string]int // the version of each row
	loads          map[string]int // the number of loads, by row and process
	rowLoads       map[string]*rowLoads
	longestExcuse  time.Duration
	writes         map[*op]bool // the running ones
	generating     map[*aside.Generation]bool
	changing       int   // running calls of Start and Finish
	lastGeneration int64 // when one was finished
	errs           []error

	processes [3]*process
	all       []*process // with the dead ones
	nextCall  int
}

// process is a simulated process, which is a Cache with a client of its own.
type process struct {
	*world
	*life
	number  int
	cache   aside.Cache
	network *network
	gens    *aside.Generations
}

const (
	steps    = 60
	valueTTL = 4 * time.Second

	refreshAfter = 700*time.Millisecond + 11
)

// rows are the rows of the database. Those of the keyspace "row" are written by Update alone, so
// that their reads are linearizable.
var (
	rowSpace = aside.Keyspace{Name: "row", TTL: valueTTL, NotFoundTTL: 2 * time.Second}
	rows     = []aside.Key{rowSpace.Key("1"), rowSpace.Key("{2}"), aside.ChatMessages("A")}
)

func newWorld(seed uint64) *world {
	w := &world{
		seed: seed, rand: draws(seed, "driver"), start: time.Now(), redis: miniredis.NewMiniRedis(),
		trace: func(string, ...any) {}, over: make(chan struct{}), calm: seed%8 == 0, space: rowSpace,
		db: make(map[string]int), loads: make(map[string]int), rowLoads: make(map[string]*rowLoads), writes: make(map[*op]bool), generating: make(map[*aside.Generation]bool),
	}
	w.space.Share = seed%3 == 0
	if w.refreshes = seed/8%2 == 1; w.refreshes {
		w.space.RefreshAfter = refreshAfter
		w.space.RefreshWait = []time.Duration{0, 100*time.Millisecond + 13, -1}[seed/16%3]
	}
	w.rows = append(w.rows, w.space.Key("1"), w.space.Key("{2}"), rows[2])
	w.rand.Shuffle(len(rows), func(i, j int) { w.rows[i], w.rows[j] = w.rows[j], w.rows[i] })
	w.rows = w.rows[:1+w.rand.IntN(len(rows))]
	w.writing = 8 + w.rand.IntN(30)
	w.redis.ClockTTL(true)
	w.admin = redis.NewClient(inMemory(w.redis))
	for _, key := range rows {
		w.db[key.String()] = 1
		w.rowLoads[key.String()] = &rowLoads{}
	}
	for i := range w.processes {
		w.bear(i)
	}
	return w
}

// bear starts a process.
func (w *world) bear(i int) {
	p := &process{world: w, number: len(w.all), life: &life{died: make(chan struct{}), over: w.over}}
	p.network = &network{seed: w.seed ^ uint64(p.number)<<32, alive: p.life, state: calm, sent: make(map[string]uint64),
		trace: func(format string, args ...any) { w.trace("process %d: "+format, append([]any{p.number}, args...)...) }}
	client := redis.NewClient(inMemory(w.redis))
	client.AddHook(p.network)
	cfg := aside.Config{
		Logger: slog.New(slog.DiscardHandler), Keyspaces: []aside.Keyspace{rowSpace},
		TTLs: map[string]time.Duration{"chat_messages": valueTTL, "generation": 20 * time.Second, "cancel": 5 * time.Second},
		// Not a multiple of the library's own intervals, as timers that are due at once fire in any order.
		Timeout: 233*time.Millisecond + 17,
		// Some of the runs have rarer settings.
		RefuseWrites: w.seed%4 == 1,
	}
	if w.seed%5 == 2 {
		cfg.QueueSize = 1 // it overflows
	}
	if w.refreshes {
		cfg.RefreshAfter = map[string]time.Duration{"chat_messages": refreshAfter}
	}
	var err error
	if p.cache, err = aside.NewRedis(client, cfg); err != nil {
		panic(err)
	}
	if p.gens, err = aside.NewGenerations(p.cache); err != nil {
		panic(err)
	}
	w.history.change(func([]*op) { w.processes[i] = p }) // others look through them
	w.all = append(w.all, p)
}

// inMemory returns the options of a client of a Redis in the same bubble.
func inMemory(server *miniredis.Miniredis) *redis.Options {
	return &redis.Options{
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			conn, err := server.Dial()
			if err != nil {
				return nil, err
			}
			return redistest.Buffered(conn), nil
		},
		ContextTimeoutEnabled: true, MaxRetries: -1, DisableIdentity: true, Protocol: 2,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}, // it would look names up
	}
}

func (w *world) now() int64 { return int64(time.Since(w.start)) }

func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, fmt.Errorf(format, args...))
}

// run drives the run: steps with pauses between them, then a time without faults, and the checks.
func (w *world) run() error {
	for range steps {
		w.step()
		time.Sleep(w.pause())
		w.settle()
	}
	w.trace("peace")
	for i, p := range w.processes {
		p.network.set(calm)
		if p.ended() {
			w.bear(i)
		}
	}
	w.calls.Wait()
	if w.calm {
		w.mu.Lock()
		while := max(4*time.Second, w.longestExcuse) // a failed load's mark is gone, and a late block
		w.mu.Unlock()
		if w.refreshes {
			while = max(while, 30*time.Second) // a refresh, whose reader does not wait for it, has ended
		}
		time.Sleep(while)
		for _, key := range w.redis.Keys() {
			if text, _ := w.redis.Get(key); strings.HasPrefix(text, "failed ") {
				continue // of a refresh, whose mark lasts for longer
			}
			if strings.Contains(key, "lease") || strings.HasPrefix(key, "generation:") {
				w.fail("%q is still in Redis, when all calls are over and nothing has failed", key)
			}
		}
	}
	time.Sleep(time.Minute) // queued invalidations are delivered, values expire
	w.settle()
	w.checkPeace()
	close(w.over)
	for _, p := range w.all {
		if err := p.cache.Close(); err != nil && !p.ended() {
			w.fail("Close in peace: %v", err)
		}
	}
	w.admin.Close()
	w.redis.Close()
	if err := w.history.check(); err != nil {
		w.fail("%v", err)
	}
	return errors.Join(w.errs...)
}

// pause returns the time until the next step. It is mostly shorter than a load, and at times
// longer than a lease or a block.
func (w *world) pause() time.Duration {
	most := []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond}[w.rand.IntN(4)]
	if w.rand.IntN(20) == 0 {
		most = 12 * time.Second
	}
	return time.Duration(w.rand.Int64N(int64(most)))
}

// step begins a call or a fault, or ends one.
func (w *world) step() {
	i := w.rand.IntN(len(w.processes))
	p := w.processes[i]
	key := w.rows[w.rand.IntN(len(w.rows))]
	n := w.rand.IntN(100)
	switch {
	case p.ended():
		w.trace("a process is back for %d", p.number)
		w.bear(i)
	case n < 62-w.writing:
		p.call(false, func(ctx context.Context, id int) { p.read(ctx, id, key) })
	case n < 62:
		p.call(true, func(ctx context.Context, id int) { p.write(ctx, id, key) })
	case n < 65:
		p.call(true, p.generate)
	case n < 67:
		p.call(true, p.cancelGeneration)
	case w.calm:
	case n < 85:
		weathers := []weather{calm, calm, {Refused: true, Latency: 1}, {Hole: true, Latency: 1}, {Latency: 400 * time.Millisecond},
			{Latency: 20 * time.Millisecond, Lost: 0.3}, {Latency: 2 * time.Millisecond, Lost: 0.8}}
		now := weathers[w.rand.IntN(len(weathers))]
		p.network.set(now)
		w.trace("process %d: the network is %+v", p.number, now)
	case n < 89:
		w.kill(p)
	case n < 92:
		w.redis.Del(key.String())
		w.trace("evicted %v", key)
	case n < 93:
		w.redis.Set(key.String(), "not JSON") // by another program; no caller may get it
		w.redis.SetTTL(key.String(), valueTTL)
		w.trace("corrupted %v", key)
	case n < 95:
		w.evictLease(key)
	case n < 97:
		w.admin.ScriptFlush(context.Background())
		w.trace("scripts flushed")
	case n < 98:
		for _, key := range rows {
			w.evictLease(key)
		}
		w.redis.FlushAll()
		w.admin.ScriptFlush(context.Background())
		w.trace("Redis was restarted empty")
	}
}

// call runs a caller of the process.
func (p *process) call(writes bool, do func(ctx context.Context, id int)) {
	p.nextCall++
	id := p.nextCall
	hasty := p.rand.IntN(10) == 0
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), callKey{}, call{id, writes, hasty}))
	if hasty {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(p.rand.Int64N(int64(time.Second))))
	}
	ended := make(chan struct{})
	p.calls.Add(1)
	go func() {
		select { // the calls of the dead are not waited for
		case <-ended:
		case <-p.died:
		}
		p.calls.Done()
	}()
	go func() {
		defer close(ended)
		defer cancel()
		do(ctx, id)
	}()
}

// lasts returns the time that a load or a write takes, at times longer than leases and blocks.
func lasts(r *rand.Rand) time.Duration {
	most := []time.Duration{time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond}[r.IntN(4)]
	if r.IntN(15) == 0 {
		most = 12 * time.Second
	}
	return time.Duration(r.Int64N(int64(most)))
}

var errDatabase = errors.New("the database is down")

func (p *process) read(ctx context.Context, id int, key aside.Key) {
	o := &op{Key: key.String(), Process: p.number, Kind: read, Call: p.now(), Return: never}
	p.trace("process %d: call %d reads %v", p.number, id, key)
	v, err := aside.GetOrLoad(ctx, p.cache, key, func(ctx context.Context) (_ int, err error) {
		ended := p.loadBegins(ctx, key)
		defer func() { ended(err) }()
		r := p.nextLoad(key) // the same for each caller that may lead
		p.trace("process %d: begins to load %v", p.number, key)
		if err := p.sleep(ctx, lasts(r)); err != nil {
			return 0, err
		}
		version := p.version(key)
		p.trace("process %d: loads %v: %d", p.number, key, version)
		if err := p.sleep(ctx, lasts(r)); err != nil {
			return 0, err
		}
		switch {
		case r.IntN(15) == 0:
			return 0, errDatabase
		case absent(version):
			return 0, aside.ErrNotFound
		}
		return version, nil
	})
	o.Return = p.now()
	o.Version, o.Absent = v, errors.Is(err, aside.ErrNotFound)
	p.trace("process %d: call %d read %v: %v, %v", p.number, id, key, v, err)
	switch {
	case p.ended():
	case err == nil || o.Absent:
		p.history.add(o)
	case err != errDatabase && ctx.Err() == nil:
		p.fail("process %d: a read of %v returned %w", p.number, key, err)
	}
}

func (p *process) nextLoad(key aside.Key) *rand.Rand {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := fmt.Sprint("load ", p.number, " ", key)
	p.loads[name]++
	return draws(p.seed, name, " ", p.loads[name])
}

func (p *process) version(key aside.Key) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.db[key.String()]
}

// commit gives a row its next version and adds the write to the history. It is not settled yet.
func (p *process) commit(key aside.Key, o *op) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.db[o.Key]++
	o.Version = p.db[o.Key]
	o.Return, o.Settled = never, never
	p.history.add(o)
	p.trace("process %d: commits %v: %d", p.number, key, o.Version)
}

// write writes the row with Update, or, for rows that allow it, with an Invalidate afterwards.
func (p *process) write(ctx context.Context, id int, key aside.Key) {
	o := &op{Key: key.String(), Process: p.number, Kind: update, Call: p.now(), Sealed: true}
	r := draws(p.seed, "write ", id)
	p.trace("process %d: call %d writes %v", p.number, id, key)
	p.mu.Lock()
	p.writes[o] = true
	p.mu.Unlock()
	write := func(ctx context.Context) error {
		if err := p.sleep(ctx, lasts(r)); err != nil {
			return err
		}
		p.commit(key, o)
		if r.IntN(4) == 0 {
			_ = p.sleep(ctx, lasts(r))
			return errDatabase // perhaps committed: it was
		}
		return p.sleep(ctx, lasts(r))
	}
	var err error
	unblocked := false
	if key == rows[2] && r.IntN(2) == 0 {
		p.history.change(func([]*op) { o.Kind = invalidate })
		if write(ctx) == errDead {
			return
		}
		err = aside.Invalidate(ctx, p.cache, key)
	} else {
		err = aside.Update(ctx, p.cache, func(ctx context.Context) error {
			if unblocked = aside.Pending(p.cache, key); unblocked {
				p.unseal(o)
			}
			return write(ctx)
		}, key)
	}
	if unblocked || err != nil && o.Version == 0 {
		p.excuse(key, 16*time.Second) // the block comes up to 5 s late, and stays for 10
	} else {
		p.excuse(key, 50*time.Millisecond) // answers are on their way
	}
	p.returned(o)
	p.trace("process %d: call %d wrote %v: %v", p.number, id, key, err)
	switch {
	case p.ended() || err == nil || err == errDatabase || ctx.Err() != nil || errors.Is(err, aside.ErrBlockLost):
	case errors.Is(err, context.Canceled): // the write's own context: the block was lost
	case errors.Is(err, aside.ErrWriteRefused) && p.seed%4 == 1 && o.Version == 0:
	default:
		p.fail("process %d: a write of %v returned %w", p.number, key, err)
	}
}

func (p *process) unseal(o *op) { p.history.change(func([]*op) { o.Sealed = false }) }

func (p *process) returned(o *op) {
	if p.ended() {
		return
	}
	p.mu.Lock()
	delete(p.writes, o)
	p.mu.Unlock()
	p.history.change(func([]*op) {
		o.Return = p.now()
		if o.Kind == update && o.Sealed {
			o.Settled = o.Return
		}
	})
	p.settle()
}

// settle notes which of the returned writes have settled since the last call.
func (w *world) settle() {
	now := w.now()
	w.history.change(func(ops []*op) {
		for _, o := range ops {
			if o.Kind == read || o.Settled != never || o.Return == never {
				continue
			}
			for _, p := range w.processes {
				if p.number == o.Process && !p.ended() && !aside.Pending(p.cache, keyOf(o)) {
					o.Settled = now
				}
			}
		}
	})
}

func keyOf(o *op) aside.Key {
	for _, key := range rows {
		if key.String() == o.Key {
			return key
		}
	}
	panic(o.Key)
}

// kill ends a process, with all of its calls and loads under way.
func (w *world) kill(p *process) {
	w.trace("process %d dies", p.number)
	close(p.died)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	w.history.change(func([]*op) {
		for o := range w.writes {
			if o.Process == p.number {
				delete(w.writes, o)
				if o.Kind == update && o.Sealed && o.Version != 0 {
					o.Return, o.Settled = now, now // promise P2
				}
			}
		}
	})
}

// evictLease removes the lease key of a key. Running Updates lose their blocks with it.
func (w *world) evictLease(key aside.Key) {
	lease := "{" + key.String() + "}:lease"
	if strings.Contains(key.String(), "{") {
		lease = "lease:" + key.String()
	}
	w.redis.Del(lease)
	w.trace("evicted %s", lease)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history.change(func([]*op) {
		for o := range w.writes {
			if o.Key == key.String() {
				o.Sealed = false
			}
		}
	})
}

// checkPeace checks, after a minute without faults, that Redis is empty, that no key is pending,
// and that reads return the newest version.
func (w *world) checkPeace() {
	for _, key := range w.redis.Keys() {
		w.fail("%q is still in Redis, a minute after the last fault", key)
	}
	for _, p := range w.processes {
		for _, key := range rows {
			if aside.Pending(p.cache, key) {
				w.fail("process %d: %v is still pending", p.number, key)
			}
			for range 2 {
				v, err := aside.GetOrLoad(context.Background(), p.cache, key, func(context.Context) (int, error) {
					if v := p.version(key); !absent(v) {
						return v, nil
					}
					return 0, aside.ErrNotFound
				})
				if want := p.version(key); absent(want) && !errors.Is(err, aside.ErrNotFound) || !absent(want) && (err != nil || v != want) {
					w.fail("process %d, in peace: %v is %d, %v, want %d", p.number, key, v, err, want)
				}
			}
		}
	}
}
