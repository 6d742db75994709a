// Command bench measures aside side by side with other caching libraries, on a
// redis-server of its own, and writes its findings to docs/benchmarks.md and
// docs/benchmarks.svg. From the root of the repository:
//
//	go run ./bench
//
// It compares the time that each library takes for the same reads and writes, and its behaviour
// at a stampede, at a race of a load with a write, and while Redis is unavailable. A library is
// used as its own documentation recommends (peers_*.go), with the same values, keys and loader
// (values.go).
//
// A scenario (hits.go, misses.go, …) makes jobs. A job is one visit to one library. All jobs
// run in several rounds, each in a random order, so that a disturbance of the machine hits
// one figure of several and the median leaves it out. Figures of different runs cannot be
// compared, only ratios within one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// bench is one run.
type bench struct {
	rounds int
	each   time.Duration  // of one measurement
	quick  bool           // measure as little as possible
	only   *regexp.Regexp // matches the names of the jobs to run
	out    string         // the folder for the report; "" means standard output

	command string // that makes the same run, for the report

	kept    *server         // has the values of hits, which stay from round to round, a prefix for each peer
	scratch *server         // is empty between jobs, as each job that uses it empties it
	filled  map[string]bool // the prefixes that are on kept
	results *results
	log     io.Writer // for the progress
}

func main() {
	if isWorker() {
		work(os.Stdin, os.Stdout)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		stop()
		os.Exit(1)
	}
}

// run does a whole run: it starts the servers that the jobs need, measures and reports.
func run(ctx context.Context, args []string, progress io.Writer) error {
	b, err := parse(args, progress)
	if err != nil {
		return err
	}
	quiet()
	began := time.Now()
	if b.needsRedis() {
		if b.kept, err = startServer(ctx); err != nil {
			return err
		}
		defer b.kept.stop()
		if b.scratch, err = startServer(ctx); err != nil {
			return err
		}
		defer b.scratch.stop()
	}
	if err := b.measureAll(ctx); err != nil {
		return err
	}
	return b.report(ctx, time.Since(began))
}

// parse makes a bench from the arguments of the command line.
func parse(args []string, progress io.Writer) (*bench, error) {
	b := &bench{filled: make(map[string]bool), results: newResults(), log: progress}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(progress)
	rounds := flags.Int("rounds", 0, "number of `rounds`, each of all measurements in random order (default 5, 1 with -quick)")
	each := flags.Duration("time", 0, "`duration` of one measurement (default 200ms, 5ms with -quick)")
	only := flags.String("only", "", "`regexp` for the names of the measurements to run, such as hits/100B/aside")
	flags.BoolVar(&b.quick, "quick", false, "measure as little as possible, to check that everything works")
	flags.StringVar(&b.out, "out", "", "`folder` for docs/benchmarks.md and docs/benchmarks.svg (default . for a whole run; -quick and -only print to standard output)")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	b.command = "go run ./bench"
	flags.Visit(func(f *flag.Flag) {
		if f.Name != "out" {
			b.command += fmt.Sprintf(" -%s=%s", f.Name, f.Value)
		}
	})
	var err error
	if b.only, err = regexp.Compile(*only); err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	b.rounds = or(*rounds, b.scale(5, 1))
	b.each = or(*each, time.Duration(b.scale(200, 5))*time.Millisecond)
	if b.rounds < 1 || b.each < time.Millisecond {
		return nil, fmt.Errorf("-rounds %d -time %v: want at least 1 and 1ms", b.rounds, b.each)
	}
	if b.out == "" && !b.quick && *only == "" {
		b.out = "."
	}
	return b, nil
}

// or returns v, or def where v is zero.
func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// scale returns full, or quick in a quick run.
func (b *bench) scale(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

// quiet turns off the logs of the libraries, some of which write a line for each call while
// Redis is unavailable.
func quiet() {
	redis.SetLogger(nothing{})
	log.SetOutput(io.Discard)
}

// nothing is a logger for go-redis that logs nothing.
type nothing struct{}

func (nothing) Printf(context.Context, string, ...any) {}

// job is one visit to a peer. It opens the peer, measures, and closes it.
type job struct {
	name string // such as "hits/100B/aside"; -only is matched against it
	once bool   // run in the first round only, as counts need no median
	last bool   // run after all others, as it leaves hanging goroutines behind
	run  func(ctx context.Context, b *bench) error
}

// jobs returns the jobs of all scenarios that -only matches.
func (b *bench) jobs() []job {
	var all, out []job
	all = append(all, b.hitJobs()...)
	all = append(all, b.memoryJobs()...)
	all = append(all, b.missJobs()...)
	all = append(all, b.listJobs()...)
	all = append(all, b.writeJobs()...)
	all = append(all, b.stampedeJobs()...)
	all = append(all, b.burstJobs()...)
	all = append(all, b.expiryJobs()...)
	all = append(all, b.staleJobs()...)
	all = append(all, b.troubleJobs()...)
	for _, j := range all {
		if b.only.MatchString(j.name) {
			out = append(out, j)
		}
	}
	return out
}

// needsRedis reports whether one of the jobs uses Redis.
func (b *bench) needsRedis() bool {
	for _, j := range b.jobs() {
		if !strings.HasPrefix(j.name, "memory/") {
			return true
		}
	}
	return false
}

// measureAll runs the jobs in rounds, each in a random order, and at the end those that are last.
func (b *bench) measureAll(ctx context.Context) error {
	jobs := b.jobs()
	if len(jobs) == 0 {
		return fmt.Errorf("-only %q matches nothing", b.only)
	}
	for round := range b.rounds {
		fmt.Fprintf(b.log, "round %d of %d\n", round+1, b.rounds)
		if err := b.runJobs(ctx, jobs, func(j job) bool { return !j.last && (round == 0 || !j.once) }); err != nil {
			return err
		}
	}
	return b.runJobs(ctx, jobs, func(j job) bool { return j.last })
}

// runJobs runs the jobs that want chooses, in a random order, and stops at the first error.
func (b *bench) runJobs(ctx context.Context, jobs []job, want func(job) bool) error {
	for _, i := range rand.Perm(len(jobs)) {
		j := jobs[i]
		if !want(j) {
			continue
		}
		began := time.Now()
		runtime.GC()
		if err := b.runJob(ctx, j); err != nil {
			return fmt.Errorf("%s: %w", j.name, err)
		}
		fmt.Fprintf(b.log, "  %-60s %6.1fs\n", j.name, time.Since(began).Seconds())
	}
	return nil
}

// jobLimit is the time after which a job is given up, as some libraries wait for ever.
const jobLimit = 3 * time.Minute

// runJob runs one job in a goroutine, which it leaves behind if the job does not end.
func (b *bench) runJob(ctx context.Context, j job) error {
	done := make(chan error, 1)
	go func() { done <- j.run(ctx, b) }()
	limit := time.After(jobLimit)
	select {
	case err := <-done:
		if err == nil {
			err = ctx.Err()
		}
		return err
	case <-ctx.Done():
		limit = time.After(5 * time.Second) // for its clean-up
	case <-limit:
		return fmt.Errorf("not finished within %v", jobLimit)
	}
	select {
	case <-done:
	case <-limit:
	}
	return ctx.Err()
}
