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

// counter is read from the Stats of each keyspace.
type counter struct {
	name, unit, description string
	parts                   []part
}

// part is a part of a counter, with an attribute. No event is counted in two parts of one
// counter, so that they may be added up.
type part struct {
	of    []attribute.KeyValue
	count func(s aside.Stats) int64
}

func whole(count func(s aside.Stats) int64) []part { return []part{{count: count}} }

// counters leave out Loads, LoadErrors, Refreshes and RefreshErrors, which are the counts of
// aside.load.duration by reason and error.type. NearHits is no part of the reads, since a near
// hit may be a stale one too, and a near copy that is old or does not decode ends as a miss.
var counters = []counter{
	{"aside.reads", "{read}", "Reads, but for those while the cache is switched off.", []part{
		{[]attribute.KeyValue{outcomeKey.String(hook.Hit)}, func(s aside.Stats) int64 { return s.Hits - s.StaleHits }},
		{[]attribute.KeyValue{outcomeKey.String(hook.Stale)}, func(s aside.Stats) int64 { return s.StaleHits }},
		{[]attribute.KeyValue{outcomeKey.String(hook.Miss)}, func(s aside.Stats) int64 { return s.Misses }},
	}},
	{"aside.near.hits", "{lookup}", "Lookups that found a value in the near cache: nearly all are hits or stale reads.",
		whole(func(s aside.Stats) int64 { return s.NearHits })},
	{"aside.read.coalesced", "{read}", "Reads that took the result of a load begun for another caller.",
		whole(func(s aside.Stats) int64 { return s.Coalesced })},
	{"aside.read.degraded", "{read}", "Reads that went without the backend, because of trouble with it or an undelivered invalidation.",
		whole(func(s aside.Stats) int64 { return s.Degraded })},
	{"aside.load.waits", "{wait}", "Waits for a load in another process.",
		whole(func(s aside.Stats) int64 { return s.Waited })},
	{"aside.refresh.skipped", "{refresh}", "Refreshes that were not begun, as too many were running or loads had all places.",
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

// boundaries are those of durations, in seconds: from a quick query to the reply of a model.
var boundaries = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}

type instruments struct {
	loadDuration, missDuration metric.Float64Histogram

	counters                []metric.Int64ObservableCounter // in the order of counters
	queueSize, troubled     metric.Int64ObservableUpDownCounter
	breakerOpen, overflowed metric.Int64ObservableGauge
}

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
	in.overflowed = gauge("aside.queue.overflowed", "1 from an overflow of the queue until a Clear has gone through: nothing cached is trusted.")
	in.breakerOpen = gauge("aside.breaker.open", "1 while the breaker of a node is open: it is not asked, or not asked to store.")
	in.troubled = upDown("aside.troubles", "{trouble}", "Troubles that last, of a node where there are several.")
	return in, errors.Join(errs...)
}

func (in *instruments) observables() []metric.Observable {
	all := []metric.Observable{in.queueSize, in.overflowed, in.breakerOpen, in.troubled}
	for _, c := range in.counters {
		all = append(all, c)
	}
	return all
}

// trouble is one kind of it, of a node where there are several.
type trouble struct{ kind, node string }

func (t *Telemetry) state(s hook.State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.troubles[trouble{s.Trouble, s.Node}] = s.Begins
}

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

// Watch makes collections report the counters of a Cache that was opened with the Hooks of t,
// and its troubles. It fails if the Cache is closed, or t watches one. A Cache that is closed
// later is no longer reported: shut the MeterProvider down before, or its last interval is lost.
func (t *Telemetry) Watch(cache aside.Cache) error {
	if cache == nil {
		return errors.New("asideotel: Watch: the Cache is nil")
	}
	if _, err := status(cache); errors.Is(err, aside.ErrClosed) {
		return err
	}
	t.watching.Lock()
	defer t.watching.Unlock()
	if t.registration != nil {
		return errors.New("asideotel: Watch: it watches a Cache already; want a Telemetry for each")
	}
	w := &watch{t: t, cache: cache, last: make(map[series]int64)}
	var err error
	t.registration, err = t.meter.RegisterCallback(w.observe, t.observables()...)
	return err
}

// Close ends Watch, so that the MeterProvider no longer keeps the Cache in memory. It is not
// needed where both last as long as the process. Closing twice is not an error.
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

// watch collects a Cache.
type watch struct {
	t     *Telemetry
	cache aside.Cache

	mu   sync.Mutex
	last map[series]int64
}

type series struct {
	keyspace      string
	counter, part int
}

// atLeast returns n, or more if that was returned before: a part that is a difference of two
// counts, read while they grow, may come out smaller, which a reader of a counter takes for a
// restart of the process.
func (w *watch) atLeast(of series, n int64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[of] = max(n, w.last[of])
	return w.last[of]
}

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

// status returns the part of a Cache's status that is of this process. The context has ended,
// so the backend is not asked: nothing of its answer is reported, and a collection must not wait
// for one that does not come.
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
