package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// expiryEvery is the time from one read to the next, whether or not that has returned.
	expiryEvery = time.Millisecond
	// expiryLate is what no hit takes on a machine that is not busy otherwise.
	expiryLate = 10 * time.Millisecond
)

// aroundExpiry are the peers whose reads are timed around the ends of a value.
var aroundExpiry = map[string]bool{
	"aside": true, "aside, RefreshAfter": true, "aside memory": true, "aside memory, Share, RefreshAfter": true,
	earlySturdyc: true, refreshingOtter: true,
}

// unending is the row of a value that does not end meanwhile, which tells what the machine
// itself does to reads.
const unending = "aside, a value that does not end"

const (
	earlySturdyc    = "sturdyc, early refreshes"
	refreshingOtter = "otter Get, RefreshWriting"
)

func (b *bench) expiryTTL() time.Duration {
	return time.Duration(b.scale(1000, 100)) * time.Millisecond
}

// expiryAfter is the age from which those load again that can.
func (b *bench) expiryAfter() time.Duration { return b.expiryTTL() * 4 / 5 }

func (b *bench) expiryLoad() time.Duration { return b.expiryTTL() / 20 }

// expiryTime is how long one measurement takes: it sees the value end four times.
func (b *bench) expiryTime() time.Duration { return 4*b.expiryTTL() + b.expiryTTL()/2 }

// expiryJobs read one key a thousand times a second while its value ends, again and
// again.
func (b *bench) expiryJobs() []job {
	var jobs []job
	for _, p := range peers() {
		if aroundExpiry[p.name] {
			jobs = append(jobs, job{name: "expiry/" + p.name, run: func(ctx context.Context, b *bench) error {
				return b.expiry(ctx, p, p.name, b.expiryTTL())
			}})
		}
		if p.name == "aside" {
			jobs = append(jobs, job{name: "expiry/" + unending, run: func(ctx context.Context, b *bench) error {
				return b.expiry(ctx, p, unending, ttl)
			}})
		}
	}
	return jobs
}

func (b *bench) expiry(ctx context.Context, p peer, row string, lives time.Duration) error {
	k := b.kinds()[0]
	src := &source{kind: k, load: func(context.Context, string) ([]byte, error) {
		time.Sleep(b.expiryLoad())
		return slices.Clone(k.bytes), nil
	}}
	st, err := p.open(setup{
		addr: b.scratch.addr, prefix: "expiry", source: src, entries: 1000, maxBytes: 64 << 20,
		ttl: lives, refreshAfter: b.expiryAfter(),
	})
	if err != nil {
		return err
	}
	defer func() { st.Close(); _ = b.scratch.flush(ctx) }()
	id := idOf(0)
	if err := k.check(ctx, st, id); err != nil {
		return err
	}
	src.loads.Store(0)
	took := make([]time.Duration, b.expiryTime()/expiryEvery)
	errs := make([]error, len(took))
	var wg sync.WaitGroup
	began := time.Now()
	for i := range took {
		time.Sleep(time.Until(began.Add(time.Duration(i) * expiryEvery)))
		wg.Go(func() {
			start := time.Now()
			errs[i] = k.read(ctx, st, id)
			took[i] = time.Since(start)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("a read: %w", err)
		}
	}
	slices.Sort(took)
	late := len(took)
	if i := slices.IndexFunc(took, func(d time.Duration) bool { return d > expiryLate }); i >= 0 {
		late -= i
	} else {
		late = 0
	}
	for column, v := range map[string]float64{
		"p50": micros(quantile(took, 0.5)), "p99": micros(quantile(took, 0.99)), "worst": micros(took[len(took)-1]),
		"late": 1000 * float64(late) / float64(len(took)), "loads": float64(src.loads.Load()),
	} {
		b.results.add("expiry", row, column, v)
	}
	return nil
}

// quantile returns the least of the sorted times that a share q of them does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(math.Ceil(q*float64(len(sorted))))-1]
}

func (b *bench) expirySection() section {
	return section{
		title: "Reads around an expiry",
		intro: fmt.Sprintf(`One key is read each %v, for %v, and its loader takes %v. Its time to live is %v, and those that can load it again from an age of %v on. "Waited" is for more than %v.
jetcache-go refreshes at most once a second, which is no less than this time to live.`,
			expiryEvery, b.expiryTime(), b.expiryLoad(), b.expiryTTL(), b.expiryAfter(), expiryLate),
		tables: []table{{id: "expiry", title: fmt.Sprintf("A value that lives for %v", b.expiryTTL()), rows: append([]string{unending}, names(peers())...), columns: []column{
			{key: "p50", heading: "median, µs", format: significant, best: -1},
			{key: "p99", heading: "99th percentile, µs", format: significant, best: -1},
			{key: "worst", heading: "slowest, µs", format: significant, best: -1},
			{key: "late", heading: "of 1,000 reads waited", format: significant, best: -1},
			{key: "loads", heading: "loads", format: count},
		}}},
	}
}
