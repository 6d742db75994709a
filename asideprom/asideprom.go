// Package asideprom exports the counts of an [aside.Cache] to Prometheus.
//
//	metrics := asideprom.New("chat")
//	cfg.Hooks = append(cfg.Hooks, metrics.Hooks())
//	cache, err := aside.Open(cfg)
//	…
//	metrics.Watch(cache)
//	prometheus.MustRegister(metrics)
//
// Each metric has the label cache, the name given to [New], so that several caches can be
// registered with one registry. Metrics per keyspace have its name as the label keyspace,
// which is empty for the sum of all keyspaces after the first 256. No label holds a key. All
// counts are of this process alone, and reads of a cache that is switched off are in none.
// The terms are those of package aside.
//
// [Metrics.Hooks] gives the histograms and aside_trouble, [Metrics.Watch] all others.
//
//	aside_reads_total{keyspace,outcome}           reads by outcome: hit, stale (a value older than RefreshAfter) or miss
//	aside_near_hits_total{keyspace}               look-ups answered from the near cache; nearly all are hits or stale
//	aside_coalesced_reads_total{keyspace}         reads that took the result of a load begun for another caller
//	aside_degraded_reads_total{keyspace}          reads that bypassed the backend: unavailable, or a distrusted key
//	aside_waits_total{keyspace}                   waits for a load in another process
//	aside_miss_duration_seconds{keyspace}         histogram: time of reads that missed
//	aside_load_duration_seconds{keyspace,reason,result}
//	                                              histogram: time of loaders by reason (miss, refresh, fresh, audit)
//	                                              and result (ok, not_found, canceled, error)
//	aside_refreshes_skipped_total{keyspace}       refreshes that were skipped: too many were running, or no place was free
//	aside_fills_refused_total{keyspace}           loaded values that were not stored because a write came between
//	aside_decode_errors_total{keyspace}           stored values that did not decode
//	aside_encode_errors_total{keyspace}           loaded values that could not be stored
//	aside_audits_total{keyspace,result}           audits of hits by result: equal, different or undecided
//	aside_invalidations_total{keyspace}           keys that were invalidated in the backend
//	aside_invalidations_queued_total{keyspace}    keys that were queued for a later invalidation; one that is queued twice is invalidated once
//	aside_queued_invalidations                    keys that wait in the queue now
//	aside_queue_overflowed                        1 from an overflow of the queue until a Clear has gone through: every key is distrusted
//	aside_breaker_open                            1 while a breaker of a node is open: it is not asked, or not asked to store
//	aside_trouble{trouble,node}                   1 while there is trouble: answer, store, queue or near (see package hook)
//	aside_up                                      1 if the backend answered this scrape
//
// A remembered "not found" is a miss without a load. A hit of the near cache is also a hit,
// or stale.
//
// Alert rules for them are in alerts.yaml, and a Grafana dashboard in dashboard.json.
package asideprom

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/hook"
)

// Metrics are the metrics of one Cache: a [prometheus.Collector], to be registered once.
// Its methods may be called concurrently.
type Metrics struct {
	own           prometheus.Labels
	misses, loads *prometheus.HistogramVec
	pulled        descs

	mu      sync.Mutex
	trouble *prometheus.GaugeVec // of the Cache that has the last Hooks
	cache   aside.Cache          // nil before Watch
	last    map[series]float64   // the values of the last collection
}

// series is one of a counter's series: a combination of its labels.
type series struct {
	desc            *prometheus.Desc
	keyspace, label string
}

// durations are the buckets, from the fastest answer of a database to a wait that users
// give up on.
var durations = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// New returns the metrics of a cache. name is the label cache, which must differ between
// caches of one registry.
func New(name string) *Metrics {
	own := prometheus.Labels{"cache": strings.ToValidUTF8(name, "?")}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: own, Buckets: durations}, labels)
	}
	return &Metrics{
		own:     own,
		misses:  histogram("aside_miss_duration_seconds", "Time of reads that missed.", "keyspace"),
		loads:   histogram("aside_load_duration_seconds", "Time of loaders.", "keyspace", "reason", "result"),
		trouble: newTrouble(own),
		pulled:  newDescs(own),
	}
}

// newTrouble returns a gauge that reports no trouble.
func newTrouble(own prometheus.Labels) *prometheus.GaugeVec {
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "aside_trouble", Help: "Whether there is trouble with the backend.", ConstLabels: own,
	}, []string{"trouble", "node"})
	for _, trouble := range []string{hook.Answer, hook.Store, hook.Queue, hook.Near} {
		vec.WithLabelValues(trouble, "")
	}
	return vec
}

// Hooks returns hooks for the aside.Config.Hooks of one Cache. They measure misses and loads,
// and record trouble. Trouble of a Cache that was opened with earlier ones is forgotten.
func (m *Metrics) Hooks() hook.Hooks {
	trouble := newTrouble(m.own)
	m.mu.Lock()
	m.trouble = trouble
	m.mu.Unlock()
	return hook.Hooks{
		Read: func(_ context.Context, r hook.Read) {
			if r.Outcome == hook.Miss {
				m.misses.WithLabelValues(r.Keyspace).Observe(r.Duration.Seconds())
			}
		},
		Load: func(ctx context.Context, l hook.Load) (context.Context, func(hook.LoadEnd)) {
			return ctx, func(e hook.LoadEnd) {
				m.loads.WithLabelValues(l.Keyspace, l.Reason, resultOf(e.Err)).Observe(e.Duration.Seconds())
			}
		},
		State: func(s hook.State) {
			trouble.WithLabelValues(s.Trouble, s.Node).Set(oneIf(s.Begins))
		},
	}
}

// Watch makes m collect the counters of cache, from now on and instead of those of an
// earlier one; nil ends that. It is separate from New as the cache must be opened with Hooks
// first. Of a closed cache, aside_up is 0 and only the histograms remain.
func (m *Metrics) Watch(cache aside.Cache) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cache, m.last = cache, make(map[series]float64)
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	m.misses.Describe(out)
	m.loads.Describe(out)
	newTrouble(m.own).Describe(out)
	m.pulled.describe(out)
}

// Collect implements [prometheus.Collector]. It asks the backend for its status, which
// takes at most aside.Config.Timeout if the backend obeys its context, as those of aside do.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.misses.Collect(out)
	m.loads.Collect(out)
	m.mu.Lock()
	cache, trouble := m.cache, m.trouble
	m.mu.Unlock()
	if cache == nil {
		trouble.Collect(out)
		return
	}
	s, err := cache.Status(context.Background()) // not under mu: collections wait together, and not one after the other
	out <- m.pulled.up.metric(oneIf(err == nil))
	if errors.Is(err, aside.ErrClosed) { // a closed cache has no counts
		return
	}
	trouble.Collect(out)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cache != cache { // another is watched now, whose counters are in last
		return
	}
	out <- m.pulled.queued.metric(float64(s.Queued))
	out <- m.pulled.overflowed.metric(oneIf(s.Overflowed))
	out <- m.pulled.open.metric(oneIf(s.Breaker == "open"))
	for keyspace, stats := range s.Keyspaces {
		for _, c := range m.pulled.counters {
			m.count(out, c, keyspace, &stats)
		}
	}
}

// count collects the series of a counter. The difference of two counts may fall, as they
// are not read at the same instant. Prometheus would take that for a restart of the
// process, so count never reports less than before.
func (m *Metrics) count(out chan<- prometheus.Metric, c counter, keyspace string, stats *aside.Stats) {
	for _, n := range c.counts {
		of := series{c.Desc, keyspace, n.label}
		m.last[of] = max(m.last[of], float64(n.of(stats)))
		labels := []string{keyspace}
		if len(c.counts) > 1 {
			labels = append(labels, n.label)
		}
		out <- c.metric(m.last[of], labels...)
	}
}

// resultOf returns the label of a load's result. A load is canceled when its callers have
// left. The methods of an error belong to its author and may panic, which must not end the
// process that is measured.
func resultOf(err error) (result string) {
	defer func() {
		if recover() != nil {
			result = "error"
		}
	}()
	var panicked *aside.PanicError // first: it may be one with ErrNotFound
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &panicked):
		return "error"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, aside.ErrNotFound):
		return "not_found"
	}
	return "error"
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// desc describes a metric that is read at collection.
type desc struct {
	*prometheus.Desc
	kind prometheus.ValueType
}

func (d desc) metric(value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d.Desc, d.kind, value, labels...)
}

// counter is a counter per keyspace. Its counts differ in a second label, if there are
// several.
type counter struct {
	desc
	counts []count
}

// count is one value of the second label, and the count for it.
type count struct {
	label string
	of    func(s *aside.Stats) int64
}

// descs are the metrics that are read at collection.
type descs struct {
	up, queued, overflowed, open desc
	counters                     []counter
}

func newDescs(own prometheus.Labels) descs {
	gauge := func(name, help string) desc {
		return desc{prometheus.NewDesc(name, help, nil, own), prometheus.GaugeValue}
	}
	by := func(name, help, label string, counts ...count) counter {
		return counter{desc{prometheus.NewDesc(name, help, []string{"keyspace", label}, own), prometheus.CounterValue}, counts}
	}
	plain := func(name, help string, of func(*aside.Stats) int64) counter {
		return counter{desc{prometheus.NewDesc(name, help, []string{"keyspace"}, own), prometheus.CounterValue}, []count{{"", of}}}
	}
	return descs{
		up:         gauge("aside_up", "Whether the backend answered this scrape."),
		queued:     gauge("aside_queued_invalidations", "Keys that wait in the queue for their invalidation."),
		overflowed: gauge("aside_queue_overflowed", "Whether the queue has overflowed, and every key is distrusted until a Clear has gone through."),
		open:       gauge("aside_breaker_open", "Whether a breaker of a node is open: it is not asked, or not asked to store."),
		counters: []counter{
			by("aside_reads_total", "Reads by outcome.", "outcome",
				count{"hit", func(s *aside.Stats) int64 { return s.Hits - s.StaleHits }},
				count{"stale", func(s *aside.Stats) int64 { return s.StaleHits }},
				count{"miss", func(s *aside.Stats) int64 { return s.Misses }}),
			plain("aside_near_hits_total", "Look-ups answered from the near cache.", func(s *aside.Stats) int64 { return s.NearHits }),
			plain("aside_coalesced_reads_total", "Reads that took the result of a load begun for another caller.", func(s *aside.Stats) int64 { return s.Coalesced }),
			plain("aside_degraded_reads_total", "Reads that bypassed the backend: unavailable, or a distrusted key.", func(s *aside.Stats) int64 { return s.Degraded }),
			plain("aside_waits_total", "Waits for a load in another process.", func(s *aside.Stats) int64 { return s.Waited }),
			plain("aside_refreshes_skipped_total", "Refreshes that were skipped: too many were running, or no place was free.", func(s *aside.Stats) int64 { return s.RefreshesSkipped }),
			plain("aside_fills_refused_total", "Loaded values that were not stored because a write came between.", func(s *aside.Stats) int64 { return s.StaleFills }),
			plain("aside_decode_errors_total", "Stored values that did not decode.", func(s *aside.Stats) int64 { return s.DecodeErrors }),
			plain("aside_encode_errors_total", "Loaded values that could not be stored.", func(s *aside.Stats) int64 { return s.EncodeErrors }),
			by("aside_audits_total", "Audits of hits by result.", "result",
				count{"equal", func(s *aside.Stats) int64 { return s.Audited - s.AuditDifferences }},
				count{"different", func(s *aside.Stats) int64 { return s.AuditDifferences }},
				count{"undecided", func(s *aside.Stats) int64 { return s.AuditsUndecided }}),
			plain("aside_invalidations_total", "Keys that were invalidated in the backend.", func(s *aside.Stats) int64 { return s.Invalidated }),
			plain("aside_invalidations_queued_total", "Keys that were queued for a later invalidation.", func(s *aside.Stats) int64 { return s.InvalidationQueued }),
		},
	}
}

func (d *descs) describe(out chan<- *prometheus.Desc) {
	for _, one := range []desc{d.up, d.queued, d.overflowed, d.open} {
		out <- one.Desc
	}
	for _, c := range d.counters {
		out <- c.Desc
	}
}
