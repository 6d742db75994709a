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
// registered with one registry. Those that are counted for each keyspace have its name as
// the label keyspace; it is empty for all keyspaces after the first 256 together. No label
// holds a key. All counts are of this process alone, and of reads while the cache is
// switched off there are none.
//
// [Metrics.Hooks] gives the histograms and aside_trouble, [Metrics.Watch] all others.
//
//	aside_reads_total{keyspace,outcome}           reads by outcome: hit, stale (a value older than RefreshAfter) or miss
//	aside_near_hits_total{keyspace}               looks answered from the near cache: nearly all are hits, or stale
//	aside_coalesced_reads_total{keyspace}         reads that took the result of a load begun for another caller
//	aside_degraded_reads_total{keyspace}          reads that went without the backend because of trouble
//	aside_waits_total{keyspace}                   waits for a load in another process
//	aside_miss_duration_seconds{keyspace}         histogram: time of reads that missed
//	aside_load_duration_seconds{keyspace,reason,result}
//	                                              histogram: time of loaders by reason (miss, refresh, fresh, audit)
//	                                              and result (ok, not_found, canceled, error)
//	aside_refreshes_skipped_total{keyspace}       refreshes that were not begun, as there was no place for them
//	aside_fills_refused_total{keyspace}           loaded values that were not stored, as a write came between
//	aside_decode_errors_total{keyspace}           stored values that did not decode
//	aside_encode_errors_total{keyspace}           loaded values that could not be stored
//	aside_audits_total{keyspace,result}           audits of hits by result: equal, different or undecided
//	aside_invalidations_total{keyspace}           keys whose invalidation was applied
//	aside_invalidations_queued_total{keyspace}    keys whose invalidation was queued; a key that is queued twice is applied once
//	aside_queued_invalidations                    keys whose invalidation waits to be delivered
//	aside_queue_overflowed                        1 from an overflow of the queue until a Clear has gone through: nothing cached is trusted
//	aside_breaker_open                            1 while the breaker of a node is open: it is not asked, or not asked to store
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

// Metrics are those of one Cache. They are a [prometheus.Collector], to be registered once.
// Their methods may be called concurrently.
type Metrics struct {
	own           prometheus.Labels
	misses, loads *prometheus.HistogramVec
	pulled        descs

	mu      sync.Mutex
	trouble *prometheus.GaugeVec // of the Cache that has the last Hooks
	cache   aside.Cache          // nil until Watch
	last    map[series]float64   // the values that were collected last
}

// series is one time series of a counter.
type series struct {
	desc            *prometheus.Desc
	keyspace, label string
}

// durations are buckets from a database's quickest answer to one that everybody waits for.
var durations = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// New returns the metrics of a cache, with a name to tell it from others in the process.
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

// newTrouble returns a gauge that says that there is none.
func newTrouble(own prometheus.Labels) *prometheus.GaugeVec {
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "aside_trouble", Help: "Whether there is trouble with the backend.", ConstLabels: own,
	}, []string{"trouble", "node"})
	for _, trouble := range []string{hook.Answer, hook.Store, hook.Queue, hook.Near} {
		vec.WithLabelValues(trouble, "")
	}
	return vec
}

// Hooks returns the hooks that time misses and loads, and are told of trouble, for the
// aside.Config.Hooks of one Cache. Trouble of a Cache that was opened with earlier ones is
// forgotten.
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

// Watch makes collections report the counters of a Cache, in place of those of one before it.
// nil ends that. Nothing but aside_up, which is 0, and histograms are reported once the Cache is
// closed.
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

// Collect implements [prometheus.Collector]. It asks the backend for its status, which takes
// aside.Config.Timeout at most where the backend obeys its context, as those of aside do.
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
	if errors.Is(err, aside.ErrClosed) { // nothing is known of it
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

// count collects the series of a counter. A difference of two counts may dip, as they are
// not read at once, and Prometheus takes a counter that falls for one that began anew.
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

// resultOf is the label of a load's result. A load is canceled when its callers have left.
// The methods of an error are its author's, and may panic.
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

// desc describes a metric that is pulled.
type desc struct {
	*prometheus.Desc
	kind prometheus.ValueType
}

func (d desc) metric(value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d.Desc, d.kind, value, labels...)
}

// counter is one that is counted for each keyspace. Its second label, if it has one, has one
// of several values.
type counter struct {
	desc
	counts []count
}

type count struct {
	label string
	of    func(s *aside.Stats) int64
}

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
		queued:     gauge("aside_queued_invalidations", "Keys whose invalidation waits to be delivered."),
		overflowed: gauge("aside_queue_overflowed", "Whether the queue has overflowed, so that nothing cached is trusted until a Clear has gone through."),
		open:       gauge("aside_breaker_open", "Whether the breaker of a node of the backend is open: it is not asked, or not asked to store."),
		counters: []counter{
			by("aside_reads_total", "Reads by outcome.", "outcome",
				count{"hit", func(s *aside.Stats) int64 { return s.Hits - s.StaleHits }},
				count{"stale", func(s *aside.Stats) int64 { return s.StaleHits }},
				count{"miss", func(s *aside.Stats) int64 { return s.Misses }}),
			plain("aside_near_hits_total", "Looks that the near cache answered.", func(s *aside.Stats) int64 { return s.NearHits }),
			plain("aside_coalesced_reads_total", "Reads that took the result of a load begun for another caller.", func(s *aside.Stats) int64 { return s.Coalesced }),
			plain("aside_degraded_reads_total", "Reads that went without the backend because of trouble.", func(s *aside.Stats) int64 { return s.Degraded }),
			plain("aside_waits_total", "Waits for a load in another process.", func(s *aside.Stats) int64 { return s.Waited }),
			plain("aside_refreshes_skipped_total", "Refreshes that were not begun, as there was no place for them.", func(s *aside.Stats) int64 { return s.RefreshesSkipped }),
			plain("aside_fills_refused_total", "Loaded values that were not stored, as a write came between.", func(s *aside.Stats) int64 { return s.StaleFills }),
			plain("aside_decode_errors_total", "Stored values that did not decode.", func(s *aside.Stats) int64 { return s.DecodeErrors }),
			plain("aside_encode_errors_total", "Loaded values that could not be stored.", func(s *aside.Stats) int64 { return s.EncodeErrors }),
			by("aside_audits_total", "Audits of hits by result.", "result",
				count{"equal", func(s *aside.Stats) int64 { return s.Audited - s.AuditDifferences }},
				count{"different", func(s *aside.Stats) int64 { return s.AuditDifferences }},
				count{"undecided", func(s *aside.Stats) int64 { return s.AuditsUndecided }}),
			plain("aside_invalidations_total", "Keys whose invalidation was applied.", func(s *aside.Stats) int64 { return s.Invalidated }),
			plain("aside_invalidations_queued_total", "Keys whose invalidation was queued.", func(s *aside.Stats) int64 { return s.InvalidationQueued }),
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
