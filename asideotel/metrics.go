package asideotel

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/hook"
)

// counter is a metric that is read from the Stats of each keyspace.
type counter struct {
	name, unit, description string
	parts                   []part
}

// part is a part of a counter, with its attribute. No event is counted in two parts of
// one counter, so that the parts may be added up.
type part struct {
	of    []attribute.KeyValue
	count func(s aside.Stats) int64
}

// whole is the parts of a counter that is not divided.
func whole(count func(s aside.Stats) int64) []part { return []part{{count: count}} }

// counters are the counters that Status has. Loads, LoadErrors, Refreshes and
// RefreshErrors are left out, as the counts of aside.load.duration have them by reason
// and error.type. NearHits is no part of the reads: a near hit may also be a stale one,
// and a near copy that is old or does not decode ends as a miss.
var counters = []counter{
	{"aside.reads", "{read}", "Reads, except while the cache is off.", []part{
		{[]attribute.KeyValue{outcomeKey.String(hook.Hit)}, func(s aside.Stats) int64 { return s.Hits - s.StaleHits }},
		{[]attribute.KeyValue{outcomeKey.String(hook.Stale)}, func(s aside.Stats) int64 { return s.StaleHits }},
		{[]attribute.KeyValue{outcomeKey.String(hook.Miss)}, func(s aside.Stats) int64 { return s.Misses }},
	}},
	{"aside.near.hits", "{lookup}", "Lookups that found a value in the near cache: nearly all are hits or stale reads.",
		whole(func(s aside.Stats) int64 { return s.NearHits })},
	{"aside.read.coalesced", "{read}", "Reads that took the result of a load begun for another caller.",
		whole(func(s aside.Stats) int64 { return s.Coalesced })},
	{"aside.read.degraded", "{read}", "Reads that bypassed the backend: unavailable, or a distrusted key.",
		whole(func(s aside.Stats) int64 { return s.Degraded })},
	{"aside.load.waits", "{wait}", "Waits for a load in another process.",
		whole(func(s aside.Stats) int64 { return s.Waited })},
	{"aside.refresh.skipped", "{refresh}", "Refreshes that were skipped, as too many were running or loads had all places.",
		whole(func(s aside.Stats) int64 { return s.RefreshesSkipped })},
	{"aside.audits", "{audit}", "Values of hits that were loaded once more to be compared.", []part{
		{[]attribute.KeyValue{auditKey.String("equal")}, func(s aside.Stats) int64 { return s.Audited - s.AuditDifferences }},
		{[]attribute.KeyValue{auditKey.String("different")}, func(s aside.Stats) int64 { return s.AuditDifferences }},
		{[]attribute.KeyValue{auditKey.String("undecided")}, func(s aside.Stats) int64 { return s.AuditsUndecided }},
	}},
	{"aside.fills.refused", "{value}", "Loaded values that were not stored because a write came between.",
		whole(func(s aside.Stats) int64 { return s.StaleFills })},
	{"aside.decode.errors", "{error}", "Stored values that did not decode.",
		whole(func(s aside.Stats) int64 { return s.DecodeErrors })},
	{"aside.encode.errors", "{error}", "Loaded values that could not be encoded, were too large or took too long to send.",
		whole(func(s aside.Stats) int64 { return s.EncodeErrors })},
	{"aside.invalidations", "{key}", "Keys whose invalidation was applied, at once or from the queue.",
		whole(func(s aside.Stats) int64 { return s.Invalidated })},
	{"aside.queue.added", "{key}", "Keys whose invalidation had to be queued.",
		whole(func(s aside.Stats) int64 { return s.InvalidationQueued })},
}

// boundaries are the buckets of durations in seconds, from a fast query to the reply of a
// model.
var boundaries = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}

// instruments are the metrics of a Telemetry. Histograms are recorded by hooks, the
// others observed at collection.
type instruments struct {
	loadDuration, missDuration metric.Float64Histogram

	counters                []metric.Int64ObservableCounter // in the order of counters
	queueSize, troubled     metric.Int64ObservableUpDownCounter
	breakerOpen, overflowed metric.Int64ObservableGauge
}

// newInstruments makes the instruments, and reports all that the meter refuses.
func newInstruments(m metric.Meter) (in instruments, err error) {
	var errs []error
	histogram := func(name, description string) metric.Float64Histogram {
		h, err := m.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), metric.WithExplicitBucketBoundaries(boundaries...))
		errs = append(errs, err)
		return h
	}
	upDown := func(name, unit, description string) metric.Int64ObservableUpDownCounter {
		c, err := m.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	gauge := func(name, description string) metric.Int64ObservableGauge {
		g, err := m.Int64ObservableGauge(name, metric.WithDescription(description)) // no unit: as a flag it is no ratio
		errs = append(errs, err)
		return g
	}
	in.loadDuration = histogram("aside.load.duration", "Duration of calls of loaders.")
	in.missDuration = histogram("aside.miss.duration", "Duration of reads that were misses, to their end.")
	for _, c := range counters {
		o, err := m.Int64ObservableCounter(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.description))
		errs = append(errs, err)
		in.counters = append(in.counters, o)
	}
	in.queueSize = upDown("aside.queue.size", "{key}", "Invalidations that wait to be delivered.")
	in.overflowed = gauge("aside.queue.overflowed", "1 from an overflow of the queue until a Clear has gone through: every key is distrusted.")
	in.breakerOpen = gauge("aside.breaker.open", "1 while a breaker of a node is open: it is not asked, or not asked to store.")
	in.troubled = upDown("aside.troubles", "{trouble}", "Trouble that lasts, by node if there are several.")
	return in, errors.Join(errs...)
}

func (in *instruments) observables() []metric.Observable {
	all := []metric.Observable{in.queueSize, in.overflowed, in.breakerOpen, in.troubled}
	for _, c := range in.counters {
		all = append(all, c)
	}
	return all
}

// trouble is a kind of trouble, with its node if there are several.
type trouble struct{ kind, node string }

// state notes the beginning or the end of trouble, for the next collection.
func (t *Telemetry) state(s hook.State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.troubles[trouble{s.Trouble, s.Node}] = s.Begins
}

// attributes names the kind, and the address of the node.
func (k trouble) attributes() []attribute.KeyValue {
	attrs := []attribute.KeyValue{troubleKey.String(k.kind)}
	host, port, err := net.SplitHostPort(k.node)
	if n, notNumber := strconv.Atoi(port); err == nil && notNumber == nil {
		return append(attrs, semconv.ServerAddress(host), semconv.ServerPort(n))
	}
	if k.node != "" {
		attrs = append(attrs, semconv.ServerAddress(k.node))
	}
	return attrs
}

// Watch starts the collection of the counters of cache, which must be the one opened with
// the Hooks of t. It fails if cache is closed, or t already watches one. A closed cache
// is no longer collected: shut the MeterProvider down before it, or the counts of the
// last interval are lost.
func (t *Telemetry) Watch(cache aside.Cache) error {
	if cache == nil {
		return errors.New("asideotel: Watch: Cache is nil; want one from aside.Open")
	}
	if _, err := status(cache); errors.Is(err, aside.ErrClosed) {
		return err
	}
	t.watching.Lock()
	defer t.watching.Unlock()
	if t.registration != nil {
		return errors.New("asideotel: Watch: already watching a Cache; want one Telemetry per Cache")
	}
	w := &watch{t: t, cache: cache, last: make(map[series]int64)}
	var err error
	t.registration, err = t.meter.RegisterCallback(w.observe, t.observables()...)
	return err
}

// Close ends Watch, so that the MeterProvider no longer keeps the Cache in memory. A
// Cache that lasts as long as the process needs no Close. Closing twice is not an error.
func (t *Telemetry) Close() error {
	t.watching.Lock()
	defer t.watching.Unlock()
	registration := t.registration
	if registration == nil {
		return nil
	}
	t.registration = nil
	return registration.Unregister()
}

// watch observes a Cache at each collection.
type watch struct {
	t     *Telemetry
	cache aside.Cache

	mu   sync.Mutex
	last map[series]int64
}

// series is a part of a counter, of one keyspace.
type series struct {
	keyspace      string
	counter, part int
}

// atLeast returns n, or the largest value returned before. A part that is the difference
// of two counts, which are read while they grow, may fall, and a reader of a counter
// takes that for a restart of the process.
func (w *watch) atLeast(of series, n int64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[of] = max(n, w.last[of])
	return w.last[of]
}

// observe reports the state of the Cache. A closed Cache is not an error: an exporter
// would log one at each collection.
func (w *watch) observe(_ context.Context, o metric.Observer) error {
	s, err := status(w.cache)
	if errors.Is(err, aside.ErrClosed) {
		return nil
	}
	for keyspace, stats := range s.Keyspaces {
		for i, c := range counters {
			for j, p := range c.parts {
				attrs := append([]attribute.KeyValue{keyspaceKey.String(keyspace)}, p.of...)
				o.ObserveInt64(w.t.counters[i], w.atLeast(series{keyspace, i, j}, p.count(stats)), w.t.with(attrs...))
			}
		}
	}
	o.ObserveInt64(w.t.queueSize, int64(s.Queued), w.t.with())
	o.ObserveInt64(w.t.overflowed, oneIf(s.Overflowed), w.t.with())
	o.ObserveInt64(w.t.breakerOpen, oneIf(s.Breaker == "open"), w.t.with())
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	for k, lasts := range w.t.troubles {
		o.ObserveInt64(w.t.troubled, oneIf(lasts), w.t.with(k.attributes()...))
	}
	return nil
}

// status returns the part of a Cache's status that is about this process. Its context has
// ended, so the backend is not asked: nothing of its answer is reported, and a collection
// must not wait for an unavailable backend.
func status(cache aside.Cache) (aside.Status, error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return cache.Status(ctx)
}

func oneIf(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}
