package proof

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

// fleet is a number of workers over one database file and one Redis.
type fleet struct {
	t       *testing.T
	env     map[string]string
	db      string
	rows    []string
	workers []*handle

	mu     sync.Mutex
	ops    []*op
	writes map[[2]int]*op // by process and number
	errors []string
	loads  []int64
	loaded []int64
	ended  map[int]int64 // when a worker was killed
	stats  []aside.Stats
}

// handle is a worker as the test sees it.
type handle struct {
	number int
	cmd    *exec.Cmd
	in     io.WriteCloser
	ready  chan struct{}
	done   chan struct{}
}

func newFleet(t *testing.T, env map[string]string) *fleet {
	t.Helper()
	f := &fleet{t: t, env: env, db: filepath.Join(t.TempDir(), "rows.db"), rows: []string{"A", "B"}, writes: make(map[[2]int]*op), ended: make(map[int]int64)}
	db, err := openDatabase(f.db)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, row := range f.rows {
		if _, err := db.Exec("INSERT INTO rows VALUES (?, 1)", row); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func envOf(addr string) map[string]string {
	host, port, _ := net.SplitHostPort(addr)
	return map[string]string{"REDIS_HOST": host, "REDIS_PORT": port}
}

// start starts a worker, which waits for begin.
func (f *fleet) start(j job) *handle {
	f.t.Helper()
	j.Number, j.Redis, j.Database, j.Rows = len(f.workers), f.env, f.db, f.rows
	text, err := json.Marshal(j)
	if err != nil {
		f.t.Fatal(err)
	}
	h := &handle{number: j.Number, cmd: exec.Command(os.Args[0]), ready: make(chan struct{}), done: make(chan struct{})}
	h.cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	h.cmd.Stderr = os.Stderr
	h.cmd.SysProcAttr = redistest.DieWithParent()
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		f.t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = h.cmd.Process.Kill(); <-h.done })
	f.workers = append(f.workers, h)
	go func() {
		defer close(h.done)
		f.follow(h, out)
		_ = h.cmd.Wait()
	}()
	return h
}

// follow reads a worker's reports.
func (f *fleet) follow(h *handle, out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var r report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			continue // of a worker that was killed
		}
		f.mu.Lock()
		switch {
		case r.Ready:
			close(h.ready)
		case r.Stats != nil:
			f.stats = append(f.stats, *r.Stats)
		case r.Error != "":
			f.errors = append(f.errors, r.Error)
		case r.Loading != 0:
			f.loads = append(f.loads, r.Loading)
		case r.Loaded != 0:
			f.loaded = append(f.loaded, r.Loaded)
		case r.Op.Kind == read:
			f.ops = append(f.ops, r.Op)
		default:
			f.writes[[2]int{h.number, r.ID}] = r.Op
		}
		f.mu.Unlock()
	}
}

// begin lets all workers begin at once, when all are ready.
func (f *fleet) begin() {
	f.t.Helper()
	for _, h := range f.workers {
		select {
		case <-h.ready:
		case <-h.done:
			f.t.Fatal("a worker ended before it began")
		}
	}
	for _, h := range f.workers {
		_, _ = io.WriteString(h.in, "go\n")
	}
}

// traffic starts three workers that read and write.
func (f *fleet) traffic() {
	f.t.Helper()
	for range 3 {
		f.start(job{Readers: 4, Writers: 2})
	}
	f.begin()
}

// end ends all workers and waits for them.
func (f *fleet) end() {
	for _, h := range f.workers {
		_ = h.in.Close()
	}
	for _, h := range f.workers {
		<-h.done
	}
}

// kill ends a worker as a crash does.
func (f *fleet) kill(h *handle) {
	_ = h.cmd.Process.Kill()
	<-h.done
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended[h.number] = clock()
}

// history returns the operations of the workers. Updates that overlap one of the outages count
// as unsealed, because Redis lost its memory in it, and their blocks with it.
func (f *fleet) history(outages [][2]int64) *history {
	f.t.Helper()
	db, err := openDatabase(f.db)
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	committed, err := db.Query("SELECT version, process, write FROM commits")
	if err != nil {
		f.t.Fatal(err)
	}
	defer committed.Close()
	h := &history{ops: f.ops}
	for committed.Next() {
		var version, process, write int
		if err := committed.Scan(&version, &process, &write); err != nil {
			f.t.Fatal(err)
		}
		o := f.writes[[2]int{process, write}]
		o.Version = version
		if died, dead := f.ended[process]; dead && o.Return == never {
			o.Return = died
			if o.Sealed {
				o.Settled = died
			}
		}
		for _, out := range outages {
			if o.Call <= out[1] && o.Return >= out[0] {
				o.Sealed = false
			}
		}
		h.ops = append(h.ops, o)
	}
	return h
}

// trouble is a fault of a real Redis, or of a process that uses it, while the other processes go
// on.
type trouble struct {
	name string
	args []string // of redis-server
	do   func(t *testing.T, f *fleet, r *redistest.Server, admin *redis.Client)

	forgets bool // blocks may be lost while do runs
	evicts  bool // blocks may be lost at any time
	revives bool // deleted values may come back
}

var troubles = []trouble{
	{name: "none", do: func(*testing.T, *fleet, *redistest.Server, *redis.Client) {}},
	{name: "killed and back, empty", forgets: true, do: restart},
	{name: "killed and back, from an append-only file that is always written", args: []string{"--appendonly", "yes", "--appendfsync", "always"}, do: restart},
	{name: "killed and back, from a snapshot", revives: true, do: func(t *testing.T, f *fleet, r *redistest.Server, admin *redis.Client) {
		must(t, admin.Save(t.Context()).Err())
		time.Sleep(300 * time.Millisecond)
		restart(t, f, r, admin)
	}},
	{name: "stopped for 5 seconds", do: func(_ *testing.T, _ *fleet, r *redistest.Server, _ *redis.Client) {
		r.Pause()
		time.Sleep(5 * time.Second)
		r.Resume()
	}},
	{name: "connections killed", do: func(t *testing.T, _ *fleet, _ *redistest.Server, admin *redis.Client) {
		for range 10 {
			must(t, admin.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err())
			time.Sleep(100 * time.Millisecond)
		}
	}},
	{name: "out of memory", args: []string{"--maxmemory-policy", "noeviction"}, do: func(t *testing.T, _ *fleet, _ *redistest.Server, admin *redis.Client) {
		must(t, admin.ConfigSet(t.Context(), "maxmemory", "1").Err())
		time.Sleep(time.Second)
		must(t, admin.ConfigSet(t.Context(), "maxmemory", "0").Err())
	}},
	{name: "evicting", args: []string{"--maxmemory-policy", "allkeys-lru"}, evicts: true, do: func(t *testing.T, _ *fleet, _ *redistest.Server, admin *redis.Client) {
		must(t, admin.ConfigSet(t.Context(), "maxmemory", "4mb").Err())
		filler := strings.Repeat("x", 10<<10)
		for i := range 2000 {
			must(t, admin.Set(t.Context(), "filler:"+string(rune('a'+i%26))+time.Now().String(), filler, 0).Err())
		}
	}},
	{name: "a read-only replica", do: func(t *testing.T, _ *fleet, _ *redistest.Server, admin *redis.Client) {
		must(t, admin.ReplicaOf(t.Context(), "127.0.0.1", "1").Err())
		time.Sleep(time.Second)
		must(t, admin.ReplicaOf(t.Context(), "NO", "ONE").Err())
	}},
	{name: "scripts flushed", do: func(t *testing.T, _ *fleet, _ *redistest.Server, admin *redis.Client) {
		for range 20 {
			must(t, admin.ScriptFlush(t.Context()).Err())
			time.Sleep(50 * time.Millisecond)
		}
	}},
	{name: "asleep", args: []string{"--enable-debug-command", "yes"}, do: func(t *testing.T, _ *fleet, _ *redistest.Server, admin *redis.Client) {
		must(t, admin.Do(t.Context(), "DEBUG", "SLEEP", "1").Err())
	}},
	{name: "scripts forbidden", forgets: true, do: func(t *testing.T, _ *fleet, _ *redistest.Server, admin *redis.Client) {
		must(t, admin.Do(t.Context(), "ACL", "SETUSER", "default", "-@scripting").Err())
		time.Sleep(time.Second)
		must(t, admin.Do(t.Context(), "ACL", "SETUSER", "default", "+@scripting").Err())
	}},
	{name: "a process killed", do: func(_ *testing.T, f *fleet, _ *redistest.Server, _ *redis.Client) {
		for i := range 2 {
			f.kill(f.workers[i])
			time.Sleep(300 * time.Millisecond)
		}
	}},
}

func restart(_ *testing.T, _ *fleet, r *redistest.Server, _ *redis.Client) {
	r.Kill()
	time.Sleep(700 * time.Millisecond)
	r.Start()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestProcesses has processes read and write the rows of a database file while a real Redis
// fails in one of several ways, and checks their history.
func TestProcesses(t *testing.T) {
	t.Parallel()
	for _, tr := range troubles {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t, tr.args...)
			admin := r.Client()
			f := newFleet(t, envOf(r.Addr))
			f.traffic()
			time.Sleep(time.Second)
			from := clock()
			tr.do(t, f, r, admin)
			to := clock()
			time.Sleep(1500 * time.Millisecond)
			f.end()
			f.check(tr, from, to)
		})
	}
}

func (f *fleet) check(tr trouble, from, to int64) {
	t := f.t
	if len(f.errors) > 0 {
		t.Errorf("%d calls failed, the first of them with: %s", len(f.errors), f.errors[0])
	}
	var outages [][2]int64
	switch {
	case tr.forgets:
		outages = append(outages, [2]int64{from, to})
	case tr.evicts:
		outages = append(outages, [2]int64{0, never})
	}
	h := f.history(outages)
	err := h.check()
	reads := 0
	for _, o := range h.ops {
		if o.Kind == read {
			reads++
		}
	}
	var hits, waits, refreshes int64
	for _, s := range f.stats {
		hits, waits, refreshes = hits+s.Hits, waits+s.Waited, refreshes+s.Refreshes
	}
	t.Logf("%d reads (%d hits, %d waits for another process, %d refreshes) and %d writes", reads, hits, waits, refreshes, len(h.ops)-reads)
	if reads < 100 || len(h.ops)-reads < 10 || hits < 20 || waits == 0 {
		t.Error("too few to show anything")
	}
	if tr.revives {
		t.Logf("what a restart from a snapshot brought back (not promised): %.200v", err)
		return
	}
	if err != nil {
		t.Errorf("%.3000v", err)
	}
}

// A cold key is loaded once, however many callers in several processes ask for it.
func TestProcesses_AColdKeyIsLoadedOnce(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	env := envOf(r.Addr)
	env["CACHE_TIMEOUT"], env["CACHE_TTL_ROW"] = "20s", "10m" // a slow machine is no trouble
	f := newFleet(t, env)
	f.rows = f.rows[:1]
	for range 8 {
		f.start(job{Readers: 100, Cold: 50 * time.Millisecond})
	}
	f.begin()
	redistest.Eventually(t, "all have read", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.ops)+len(f.errors) == 800
	})
	f.end()
	if len(f.loads) != 1 || len(f.errors) > 0 {
		t.Fatalf("%d loads, want 1; errors: %q", len(f.loads), f.errors)
	}
	var waits []time.Duration
	for _, o := range f.ops {
		if o.Call < f.loaded[0] {
			waits = append(waits, time.Duration(o.Return-f.loaded[0]))
		}
	}
	slices.Sort(waits)
	t.Logf("%d waiters in 8 processes had the value %v (median) and %v (last) after the load ended", len(waits), waits[len(waits)/2], waits[len(waits)-1])
}

// A process that is killed while it loads is replaced. Other tests check in virtual time that
// this takes at most 2.5 seconds.
func TestProcesses_AKilledLoaderIsReplaced(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	env := envOf(r.Addr)
	env["CACHE_TIMEOUT"] = "20s" // a slow machine is no trouble
	f := newFleet(t, env)
	f.rows = f.rows[:1]
	first := f.start(job{Readers: 1, Cold: time.Hour})
	f.begin()
	redistest.Eventually(t, "it loads", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.loads) == 1 })
	start := time.Now()
	time.Sleep(time.Second) // the lease has been renewed
	second := f.start(job{Readers: 1, Cold: time.Millisecond})
	<-second.ready
	_, _ = io.WriteString(second.in, "go\n")
	time.Sleep(200 * time.Millisecond)
	f.mu.Lock()
	if len(f.loads) != 1 && time.Since(start) < 3*time.Second { // else it stood still, and its lease has lapsed
		t.Error("the second process did not wait for the first one's load")
	}
	f.mu.Unlock()
	f.kill(first)
	killed := clock()
	redistest.Eventually(t, "it is replaced", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.ops) == 1 })
	f.end()
	t.Logf("replaced %v after it was killed", time.Duration(f.ops[0].Return-killed))
}
