package proof

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite"

	"github.com/cacheaside/aside"
)

// A worker is another operating-system process of this test binary. It uses the cache and the
// database as a service does until its standard input ends, and prints a line of JSON for each
// operation.

// workerEnv is the variable that makes a process a worker. It has the job as JSON.
const workerEnv = "ASIDE_PROOF_WORKER"

func TestMain(m *testing.M) {
	if text := os.Getenv(workerEnv); text != "" {
		if err := work(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// No goroutine may be left, except one of go-redis: a closed client notices only within a
	// second that it need not dial any more.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// job has the settings of a worker.
type job struct {
	Number   int
	Redis    map[string]string // as in the environment of a service
	Database string            // a SQLite file
	Rows     []string
	Readers  int
	Writers  int
	// Cold, if it is set, makes each reader read the first row once, with a load of this length.
	Cold time.Duration
}

// report is a line that a worker prints.
type report struct {
	Op      *op          `json:",omitempty"` // at its end; for a write also at its begin, and when it has settled
	ID      int          `json:",omitempty"` // of a write
	Error   string       `json:",omitempty"`
	Loading int64        `json:",omitempty"` // when a load began
	Loaded  int64        `json:",omitempty"` // when it ended
	Ready   bool         `json:",omitempty"`
	Stats   *aside.Stats `json:",omitempty"` // at the end
}

// clock is the system's monotonic clock, which all processes share.
func clock() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}

type worker struct {
	job
	cache aside.Cache
	db    *sql.DB
	ctx   context.Context
	space aside.Keyspace // tableSpace, in half of the processes with RefreshAfter

	mu     sync.Mutex
	out    *json.Encoder
	writes int
}

var tableSpace = aside.Keyspace{Name: "row", TTL: 3 * time.Second}

func work(text string) error {
	w := &worker{out: json.NewEncoder(os.Stdout)}
	if err := json.Unmarshal([]byte(text), &w.job); err != nil {
		return err
	}
	logging.Disable() // go-redis writes a line for each connection that is refused
	cfg, err := aside.ConfigFromEnv(environ(w.Redis))
	if err != nil {
		return err
	}
	cfg.Keyspaces, cfg.Logger = []aside.Keyspace{tableSpace}, slog.New(slog.DiscardHandler)
	if w.cache, err = aside.Open(cfg); err != nil {
		return err
	}
	if w.db, err = openDatabase(w.Database); err != nil {
		return err
	}
	if w.space = tableSpace; w.Number%2 == 1 && w.Cold == 0 { // as in a rollout
		w.space.RefreshAfter = 10 * time.Millisecond
	}
	var stop context.CancelFunc
	w.ctx, stop = context.WithCancel(context.Background())
	in := bufio.NewReader(os.Stdin)
	w.print(report{Ready: true})
	_, _ = in.ReadString('\n') // go
	var wg sync.WaitGroup
	for range w.Readers {
		wg.Go(w.read)
	}
	for range w.Writers {
		wg.Go(w.write)
	}
	_, _ = in.ReadString('\n') // enough
	stop()
	wg.Wait()
	s, _ := w.cache.Status(context.Background()) // the counts are there even when Redis is not
	w.print(report{Stats: &s.Stats})
	_ = w.cache.Close()
	return w.db.Close()
}

func openDatabase(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	_, err = db.Exec(`CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, version INTEGER NOT NULL);
		CREATE TABLE IF NOT EXISTS commits (id TEXT, version INTEGER, process INTEGER, write INTEGER)`)
	return db, err
}

func (w *worker) print(r report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.out.Encode(r)
}

func (w *worker) version(ctx context.Context, row string) (version int, err error) {
	err = w.db.QueryRowContext(ctx, "SELECT version FROM rows WHERE id = ?", row).Scan(&version)
	return version, err
}

func (w *worker) read() {
	for w.ctx.Err() == nil {
		row := w.Rows[rand.IntN(len(w.Rows))]
		o := &op{Key: row, Process: w.Number, Kind: read, Call: clock()}
		var err error
		o.Version, err = aside.GetOrLoad(context.Background(), w.cache, w.space.Key(row), func(ctx context.Context) (int, error) {
			if w.Cold > 0 {
				w.print(report{Loading: clock()})
				defer func() { w.print(report{Loaded: clock()}) }()
				time.Sleep(w.Cold)
			} else if rand.IntN(4) == 0 {
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
			}
			return w.version(ctx, row)
		})
		o.Return = clock()
		if err != nil {
			w.print(report{Error: fmt.Sprintf("GetOrLoad: %v", err)})
			return
		}
		w.print(report{Op: o})
		if w.Cold > 0 {
			return
		}
		time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond)
	}
}

func (w *worker) write() {
	for w.ctx.Err() == nil {
		row := w.Rows[rand.IntN(len(w.Rows))]
		w.mu.Lock()
		w.writes++
		id := w.writes
		w.mu.Unlock()
		o := op{Key: row, Process: w.Number, Kind: update, Call: clock(), Return: never, Settled: never}
		w.print(report{Op: &o, ID: id})
		err := aside.Update(context.Background(), w.cache, func(ctx context.Context) (err error) {
			o.Sealed = !aside.Pending(w.cache, w.space.Key(row))
			w.print(report{Op: &o, ID: id})
			o.Version, err = w.commit(ctx, row, id)
			return err
		}, w.space.Key(row))
		o.Return = clock()
		if err != nil && !errors.Is(err, aside.ErrBlockLost) {
			w.print(report{Error: fmt.Sprintf("Update: %v", err)})
		}
		for w.ctx.Err() == nil && !o.Sealed && aside.Pending(w.cache, w.space.Key(row)) {
			w.print(report{Op: &o, ID: id})
			time.Sleep(2 * time.Millisecond)
		}
		if o.Sealed || !aside.Pending(w.cache, w.space.Key(row)) {
			o.Settled = clock()
		}
		w.print(report{Op: &o, ID: id})
		time.Sleep(time.Duration(rand.IntN(40000)) * time.Microsecond)
	}
}

// commit gives a row its next version, and notes the process and the write that did so.
func (w *worker) commit(ctx context.Context, row string, id int) (version int, err error) {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	if err := tx.QueryRow("UPDATE rows SET version = version + 1 WHERE id = ? RETURNING version", row).Scan(&version); err != nil {
		return 0, err
	}
	if _, err := tx.Exec("INSERT INTO commits VALUES (?, ?, ?, ?)", row, version, w.Number, id); err != nil {
		return 0, err
	}
	return version, tx.Commit()
}
