package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/cacheaside/aside/internal/redistest"
)

// A worker is another process of this program, as a stampede needs several. It reads orders as
// JSON from its standard input, one a line, and answers each with a line.

// workerVariable is set in the environment of a worker.
const workerVariable = "ASIDE_BENCH_WORKER"

func isWorker() bool { return os.Getenv(workerVariable) != "" }

// order asks a worker to open a peer and read ID once, or, with At set, to let callers read ID.
type order struct {
	Peer, Addr, Prefix string // without At

	ID      string
	Callers int
	Load    time.Duration // the time that a load takes
	At      time.Time     // when the callers begin
}

// answer is the result of an order. All processes of the machine share the clock of its times.
type answer struct {
	Err     string
	Loaded  []time.Time // when each load ended
	Returns []time.Time // when each caller returned
	Failed  int         // callers without the value
}

// work carries out orders until in ends.
func work(in io.Reader, out io.Writer) {
	quiet()
	orders, answers := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out)
	var w worker
	for {
		var o order
		if orders.Decode(&o) != nil {
			return
		}
		a, err := w.obey(o)
		if err != nil {
			a.Err = err.Error()
		}
		if answers.Encode(a) != nil {
			return
		}
	}
}

// worker is the state of a worker.
type worker struct {
	store store // nil until an order has opened it

	mu     sync.Mutex
	takes  time.Duration // that a load takes
	loaded []time.Time   // when the loads of this order ended
}

// obey carries out an order.
func (w *worker) obey(o order) (answer, error) {
	if o.At.IsZero() {
		return answer{}, w.open(o)
	}
	return w.stampede(o), nil
}

// open opens a peer and reads a key, so that the stampede finds it connected.
func (w *worker) open(o order) error {
	for _, p := range peers() {
		if p.name == o.Peer {
			st, err := p.open(setup{addr: o.Addr, prefix: o.Prefix, source: &source{load: w.load}, entries: 10_000, maxBytes: 64 << 20})
			if err != nil {
				return err
			}
			w.store = st
			_, err = st.Bytes(context.Background(), o.ID) // connect, and send scripts
			return err
		}
	}
	return fmt.Errorf("unknown peer %q", o.Peer)
}

// load is the loader of the stampede. It notes when it ends.
func (w *worker) load(context.Context, string) ([]byte, error) {
	w.mu.Lock()
	takes := w.takes
	w.mu.Unlock()
	time.Sleep(takes)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loaded = append(w.loaded, time.Now())
	return append([]byte(nil), smallValue...), nil
}

// stampede lets callers begin at o.At and waits for all.
func (w *worker) stampede(o order) answer {
	w.mu.Lock()
	w.takes, w.loaded = o.Load, nil
	w.mu.Unlock()
	a := answer{Returns: make([]time.Time, o.Callers)}
	failed := make([]bool, o.Callers)
	var wg sync.WaitGroup
	time.Sleep(time.Until(o.At))
	for i := range o.Callers {
		wg.Go(func() {
			v, err := w.store.Bytes(context.Background(), o.ID)
			a.Returns[i] = time.Now()
			failed[i] = err != nil || v != string(smallValue)
		})
	}
	wg.Wait()
	for _, f := range failed {
		if f {
			a.Failed++
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	a.Loaded = w.loaded
	return a
}

// process is a worker as the process that started it sees it.
type process struct {
	cmd     *exec.Cmd
	orders  *json.Encoder
	answers *json.Decoder
}

// startProcess starts a worker, which ends with ctx or with this process.
func startProcess(ctx context.Context) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), workerVariable+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = redistest.DieWithParent()
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{cmd, json.NewEncoder(in), json.NewDecoder(out)}, nil
}

// ask gives an order and waits for its answer.
func (p *process) ask(o order) (answer, error) {
	var a answer
	if err := p.orders.Encode(o); err != nil {
		return a, fmt.Errorf("order to a worker process: %w", err)
	}
	if err := p.answers.Decode(&a); err != nil {
		return a, fmt.Errorf("answer of a worker process: %w", err)
	}
	if a.Err != "" {
		return a, errors.New(a.Err)
	}
	return a, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
