package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside"
)

// The database of a burst behaves as a PostgreSQL with few cores and its default of 100
// connections: a query takes burstQuery while at most burstWorkers run, longer in proportion
// if more do, and fails if more than burstMost run.
const (
	burstQuery   = time.Millisecond
	burstWorkers = 8
	burstMost    = 100
	burstReaders = 512
)

var errTooManyQueries = errors.New("the database has too many connections")

// burstDatabase is the simulated database. It counts queries: those that run, the most that ran
// at a time, and those that it has refused.
type burstDatabase struct{ running, most, refused atomic.Int64 }

func (d *burstDatabase) query() error {
	n := d.running.Add(1)
	defer d.running.Add(-1)
	for most := d.most.Load(); n > most && !d.most.CompareAndSwap(most, n); most = d.most.Load() {
	}
	if n > burstMost {
		d.refused.Add(1)
		return errTooManyQueries
	}
	time.Sleep(burstQuery * time.Duration(max(1, n/burstWorkers)))
	return nil
}

// burstLimits are the values of Config.MaxLoads to compare. 0 is no limit.
var burstLimits = []int{0, 64, 16}

func burstRow(limit int) string {
	if limit == 0 {
		return "aside"
	}
	return fmt.Sprintf("aside, MaxLoads: %d", limit)
}

// burstJobs returns jobs that read distinct keys, first through an empty Redis and then through an
// address on which no server listens. Loads of distinct keys cannot be shared, so a limit is
// all that protects the database.
func (b *bench) burstJobs() []job {
	var jobs []job
	for _, limit := range burstLimits {
		jobs = append(jobs, job{name: "burst/" + burstRow(limit), run: func(ctx context.Context, b *bench) error {
			if err := b.burst(ctx, limit, "empty", b.scratch.addr); err != nil {
				return err
			}
			dead, err := freePort()
			if err != nil {
				return err
			}
			return b.burst(ctx, limit, "dead", dead)
		}})
	}
	return jobs
}

// burst reads keys through the Redis at addr, which redis names in the columns.
func (b *bench) burst(ctx context.Context, limit int, redis, addr string) error {
	cfg := onRedis(setup{addr: addr})
	cfg.MaxLoads = limit
	cache, err := aside.Open(cfg)
	if err != nil {
		return err
	}
	defer func() { _ = cache.Close(); _ = b.scratch.flush(ctx) }()
	db := &burstDatabase{}
	value := slices.Clone(b.kinds()[0].bytes)
	space := aside.Keyspace{Name: "burst", TTL: ttl, Codec: aside.Bytes}
	keys := ids(b.scale(5000, 200))
	var failed atomic.Int64
	start := time.Now()
	err = each(burstReaders, len(keys), func(i int) error {
		_, err := aside.GetOrLoad(ctx, cache, space.Key(keys[i]), func(context.Context) ([]byte, error) { return value, db.query() })
		if errors.Is(err, errTooManyQueries) {
			failed.Add(1)
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	row := burstRow(limit)
	b.results.add("burst", row, redis+" ms", millis(time.Since(start)))
	b.results.add("burst", row, redis+" queries", float64(db.most.Load()))
	b.results.add("burst", row, redis+" failed", 1000*float64(failed.Load())/float64(len(keys)))
	return nil
}

func (b *bench) burstSection() section {
	var rows []string
	for _, limit := range burstLimits {
		rows = append(rows, burstRow(limit))
	}
	var columns []column
	for _, redis := range []string{"empty", "dead"} {
		columns = append(columns,
			column{key: redis + " ms", heading: redis + ": ms for all", format: significant},
			column{key: redis + " queries", heading: redis + ": queries at a time, at most", format: count},
			column{key: redis + " failed", heading: redis + ": of 1,000 reads failed", format: significant, best: -1})
	}
	return section{
		title: "A burst of loads",
		intro: fmt.Sprintf(`%d goroutines read %d keys, each once, while Redis is empty, and while no server listens at its address.
The database is a simulated one: a query takes %v while %d run, longer in proportion when more do, and fails when more than %d do.`,
			burstReaders, b.scale(5000, 200), burstQuery, burstWorkers, burstMost),
		tables: []table{{id: "burst", title: "The load of the database by `MaxLoads`", rows: rows, columns: columns}},
	}
}
