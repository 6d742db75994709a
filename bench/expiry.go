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
	// expiryEvery is the interval of the reads. A read does not wait for the one before: if it
	// did, a slow read would hide the others that it delays.
	expiryEvery = time.Millisecond
	// expiryLate is longer than any hit takes on a machine that is not busy otherwise.
	expiryLate = 10 * time.Millisecond
)

// aroundExpiry has the peers to measure: libraries that can refresh, and this one without
// refreshes as well.
var aroundExpiry = map[string]bool{
	"aside": true, "aside, RefreshAfter": true, "aside memory": true, "aside memory, Share, RefreshAfter": true,
	earlySturdyc: true, refreshingOtter: true,
}

// unending is the row of a value that does not expire meanwhile. It shows the delays that the
// machine itself causes.
const unending = "aside, a value that does not end"

const (
	earlySturdyc    = "sturdyc, early refreshes"
	refreshingOtter = "otter Get, RefreshWriting"
)

// expiryTTL is the time to live of the value that expires.
func (b *bench) expiryTTL() time.Duration {
	return time.Duration(b.scale(1000, 100)) * time.Millisecond
}

// expiryAfter is the age from which libraries that refresh load the value again.
func (b *bench) expiryAfter() time.Duration { return b.expiryTTL() * 4 / 5 }

// expiryLoad is the time that a load takes.
func (b *bench) expiryLoad() time.Duration { return b.expiryTTL() / 20 }

// expiryTime is the time of one measurement, in which the value expires four times.
func (b *bench) expiryTime() time.Duration { return 4*b.expiryTTL() + b.expiryTTL()/2 }

// expiryJobs returns jobs that read one key a thousand times a second while its value expires
// several times.
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

// expiry reads a key, the time to live of which is lives, and adds the quantiles of the
// reads to row.
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
		intro: fmt.Sprintf(`One key is read each %v, for %v, and its loader takes %v. Its time to live is %v, and libraries that refresh load it again from an age of %v. A read "waited" if it took more than %v.
jetcache-go is left out: it refreshes at most once a second, which is no less than this time to live.`,
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
