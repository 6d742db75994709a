package asideotel_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/redistest"
)

// fake is a Cache with the Status that a test gives it.
type fake struct {
	aside.Cache
	status aside.Status
	err    error
	asked  int
}

func (f *fake) Status(context.Context) (aside.Status, error) {
	f.asked++
	return f.status, f.err
}

// Each count of a Cache is in one series, with its own number. The Cache is asked once.
func TestMetrics_OfStatus(t *testing.T) {
	t.Parallel()
	l := newLab()
	telemetry := l.telemetry(t, "chat")
	f := &fake{status: aside.Status{
		Queued: 3, Overflowed: true, Breaker: "open",
		Keyspaces: map[string]aside.Stats{"s": {
			Hits: 1000, NearHits: 500, StaleHits: 200, Misses: 70, Loads: 60, LoadErrors: 61, Refreshes: 62, RefreshErrors: 63,
			RefreshesSkipped: 11, Audited: 40, AuditDifferences: 4, AuditsUndecided: 6, Coalesced: 12, Waited: 13, Degraded: 14,
			StaleFills: 15, DecodeErrors: 16, EncodeErrors: 17, Invalidated: 18, InvalidationQueued: 19,
		}},
	}}
	if err := telemetry.Watch(f); err != nil {
		t.Fatal(err)
	}
	f.asked = 0
	want := map[string]int64{
		"aside.reads aside.cache=chat,aside.keyspace=s,aside.outcome=hit":      800,
		"aside.reads aside.cache=chat,aside.keyspace=s,aside.outcome=stale":    200,
		"aside.reads aside.cache=chat,aside.keyspace=s,aside.outcome=miss":     70,
		"aside.near.hits aside.cache=chat,aside.keyspace=s":                    500,
		"aside.read.coalesced aside.cache=chat,aside.keyspace=s":               12,
		"aside.read.degraded aside.cache=chat,aside.keyspace=s":                14,
		"aside.load.waits aside.cache=chat,aside.keyspace=s":                   13,
		"aside.refresh.skipped aside.cache=chat,aside.keyspace=s":              11,
		"aside.audits aside.audit=equal,aside.cache=chat,aside.keyspace=s":     36,
		"aside.audits aside.audit=different,aside.cache=chat,aside.keyspace=s": 4,
		"aside.audits aside.audit=undecided,aside.cache=chat,aside.keyspace=s": 6,
		"aside.fills.refused aside.cache=chat,aside.keyspace=s":                15,
		"aside.decode.errors aside.cache=chat,aside.keyspace=s":                16,
		"aside.encode.errors aside.cache=chat,aside.keyspace=s":                17,
		"aside.invalidations aside.cache=chat,aside.keyspace=s":                18,
		"aside.queue.added aside.cache=chat,aside.keyspace=s":                  19,
		"aside.queue.size aside.cache=chat":                                    3,
		"aside.queue.overflowed aside.cache=chat":                              1,
		"aside.breaker.open aside.cache=chat":                                  1,
	}
	if got := l.series(t); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if f.asked != 1 {
		t.Errorf("Status was called %d times, want once", f.asked)
	}
}

// Each count of Stats is reported, also those that are added in some later version, but for
// those that the histogram of loads has.
func TestMetrics_HaveAllStats(t *testing.T) {
	t.Parallel()
	inHistogram := []string{"Loads", "LoadErrors", "Refreshes", "RefreshErrors"}
	for field := range reflect.TypeFor[aside.Stats]().Fields() {
		l := newLab()
		var s aside.Stats
		reflect.ValueOf(&s).Elem().FieldByIndex(field.Index).SetInt(7)
		if err := l.telemetry(t, "").Watch(&fake{status: aside.Status{Keyspaces: map[string]aside.Stats{"s": s}}}); err != nil {
			t.Fatal(err)
		}
		series := 0
		for _, n := range l.series(t) {
			if n > 0 {
				series++
			}
		}
		want := 1
		if slices.Contains(inHistogram, field.Name) {
			want = 0
		}
		if series != want {
			t.Errorf("%s: in %d series, want %d", field.Name, series, want)
		}
	}
}

// Counters never fall, though a difference of counts that are read while they grow may.
func TestMetrics_DoNotFall(t *testing.T) {
	t.Parallel()
	l := newLab()
	f := &fake{}
	if err := l.telemetry(t, "").Watch(f); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ hits, stale, want int64 }{{10, 3, 7}, {10, 4, 7}, {12, 4, 8}} {
		f.status.Keyspaces = map[string]aside.Stats{"s": {Hits: tt.hits, StaleHits: tt.stale}}
		l.want(t, map[string]int64{"aside.reads aside.keyspace=s,aside.outcome=hit": tt.want})
	}
}

// The README has every metric, with its unit and the keys of its attributes, and no other:
// each is registered, and has a value.
func TestMetrics_AreThoseOfTheReadme(t *testing.T) {
	t.Parallel()
	l := newLab()
	telemetry := l.telemetry(t, "chat")
	h := telemetry.Hooks()
	h.State(hook.State{Trouble: hook.Answer, Begins: true, Node: "10.0.0.1:6379"})
	h.Read(t.Context(), hook.Read{Keyspace: "s", Outcome: hook.Miss, Err: errors.New("failed")})
	_, ended := h.Load(t.Context(), hook.Load{Keyspace: "s", Reason: hook.ForMiss, Keys: 1})
	ended(hook.LoadEnd{Err: errors.New("failed")})
	if err := telemetry.Watch(&fake{status: aside.Status{Keyspaces: map[string]aside.Stats{"s": {}}}}); err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("`([^`]*)`")
	want := make(map[string]string)
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(readme)) {
		if cells := strings.Split(line, " | "); strings.HasPrefix(line, "| `aside.") && len(cells) == 5 {
			keys := []string{"aside.cache"}
			for _, m := range code.FindAllStringSubmatch(cells[3], -1) {
				if strings.Contains(m[1], ".") {
					keys = append(keys, m[1])
				}
			}
			slices.Sort(keys)
			want[strings.Trim(cells[0], "| `")] = fmt.Sprint(cells[1], " ", strings.TrimPrefix(strings.Trim(cells[2], "`"), "none"), " ", keys)
		}
	}
	got := make(map[string]string)
	for _, scope := range l.collect(t).ScopeMetrics {
		for _, m := range scope.Metrics {
			var kind string
			keys := map[string]bool{}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				kind = "up-down counter"
				if data.IsMonotonic {
					kind = "counter"
				}
				for _, p := range data.DataPoints {
					for _, attr := range p.Attributes.ToSlice() {
						keys[string(attr.Key)] = true
					}
				}
			case metricdata.Gauge[int64]:
				kind = "gauge"
				for _, p := range data.DataPoints {
					for _, attr := range p.Attributes.ToSlice() {
						keys[string(attr.Key)] = true
					}
				}
			case metricdata.Histogram[float64]:
				kind = "histogram"
				for _, p := range data.DataPoints {
					for _, attr := range p.Attributes.ToSlice() {
						keys[string(attr.Key)] = true
					}
				}
			}
			got[m.Name] = fmt.Sprint(kind, " ", m.Unit, " ", slices.Sorted(maps.Keys(keys)))
			if m.Description == "" {
				t.Errorf("%s has no description", m.Name)
			}
		}
	}
	if len(want) == 0 || !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Hits are hits, misses are misses, and the outcomes add up.
func TestMetrics_OfReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		c := l.open(t, "", aside.Config{})
		s := aside.Keyspace{Name: "s", TTL: time.Hour, RefreshAfter: 30 * time.Minute}
		read := func(key string) {
			t.Helper()
			if _, err := aside.GetOrLoad(t.Context(), c, s.Key(key), func(context.Context) (string, error) { return "v", nil }); err != nil {
				t.Error(err)
			}
		}
		for _, key := range []string{"A", "A", "A", "B", "B"} {
			read(key)
		}
		time.Sleep(40 * time.Minute)
		read("A")
		synctest.Wait()
		read("A")
		if err := aside.Invalidate(t.Context(), c, s.Key("A"), s.Key("B")); err != nil {
			t.Error(err)
		}
		l.want(t, map[string]int64{
			"aside.reads aside.keyspace=s,aside.outcome=hit":                 4,
			"aside.reads aside.keyspace=s,aside.outcome=stale":               1,
			"aside.reads aside.keyspace=s,aside.outcome=miss":                2,
			"aside.load.duration aside.keyspace=s,aside.load.reason=miss":    2,
			"aside.load.duration aside.keyspace=s,aside.load.reason=refresh": 1,
			"aside.miss.duration aside.keyspace=s":                           2,
			"aside.invalidations aside.keyspace=s":                           2,
		})
	})
}

// Durations are in seconds, in buckets that tell them apart.
func TestMetrics_OfDurations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		c := l.open(t, "", aside.Config{})
		if _, err := aside.GetOrLoad(t.Context(), c, space.Key("A"), func(context.Context) (string, error) { time.Sleep(20 * time.Millisecond); return "v", nil }); err != nil {
			t.Error(err)
		}
		found := 0
		for _, scope := range l.collect(t).ScopeMetrics {
			for _, m := range scope.Metrics {
				h, ok := m.Data.(metricdata.Histogram[float64])
				if !ok {
					continue
				}
				found++
				if p := h.DataPoints[0]; p.Sum != 0.02 || p.Bounds[4] != 0.025 || p.BucketCounts[4] != 1 || m.Unit != "s" {
					t.Errorf("%s: %+v in %s, want 0.02 s below 0.025", m.Name, p, m.Unit)
				}
			}
		}
		if found != 2 {
			t.Errorf("%d histograms, want 2", found)
		}
	})
}

// Near hits may be stale ones as well: the outcomes of reads add up with them.
func TestMetrics_OverRedis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	l := newLab()
	c := l.open(t, "", aside.Config{
		Type: "redis", Redis: aside.Redis{URL: "redis://" + r.Addr}, NearMaxBytes: 1 << 20,
		Timeout: 10 * time.Second, Keyspaces: []aside.Keyspace{space},
	})
	s := aside.Keyspace{Name: "s", TTL: time.Hour, RefreshAfter: 10 * time.Minute}
	if err := c.Set(t.Context(), "s:A", []byte(`"v"`), 30*time.Minute); err != nil { // which is taken for one that is 30 minutes old
		t.Fatal(err)
	}
	var reads int64
	for range 6 { // five of them are hits, and not stale
		reads++
		if _, err := aside.GetOrLoad(t.Context(), c, s.Key("B"), func(context.Context) (string, error) { return "v", nil }); err != nil {
			t.Error(err)
		}
	}
	redistest.Eventually(t, "near hits that are stale", func() bool {
		reads++
		if _, err := aside.GetOrLoad(t.Context(), c, s.Key("A"), func(context.Context) (string, error) { return "", errors.New("failed") }); err != nil {
			t.Error(err)
		}
		got := l.series(t)
		return got["aside.near.hits aside.keyspace=s"] > 5
	})
	got := l.series(t)
	var sum int64
	for series, n := range got {
		if strings.HasPrefix(series, "aside.reads ") {
			sum += n
		}
	}
	if sum != reads {
		t.Errorf("the outcomes add up to %d, want %d: %v", sum, reads, got)
	}
}

// No key, value or text of an error is in what is exported.
func TestNothingOfData(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		c := l.open(t, "", aside.Config{Audit: 1})
		tracer := l.traces.Tracer("test")
		ctx, caller := tracer.Start(t.Context(), "caller")
		for _, id := range []string{"secret-id", "secret-other"} {
			for i := range 3 {
				var group sync.WaitGroup
				for range 2 {
					group.Go(func() {
						_, _ = aside.GetOrLoad(ctx, c, space.Key(id), func(context.Context) (string, error) {
							time.Sleep(time.Millisecond)
							if i == 0 {
								return "", errors.New("secret text")
							}
							return fmt.Sprint("secret value ", i), nil
						})
					})
				}
				group.Wait()
				time.Sleep(time.Minute)
			}
		}
		func() {
			defer func() { _ = recover() }()
			_, _ = aside.GetOrLoad(ctx, c, space.Key("secret-panic"), func(context.Context) (string, error) { panic("secret panic") })
		}()
		_ = aside.Update(ctx, c, func(context.Context) error { return errors.New("secret write") }, space.Key("secret-id"))
		h := l.telemetry(t, "").Hooks()
		h.State(hook.State{Trouble: hook.Store, Begins: true, Node: "10.0.0.1:6379", Err: errors.New("secret password")})
		caller.End()
		synctest.Wait()
		exported := fmt.Sprintf("%+v", l.collect(t))
		for _, s := range l.spans.Ended() {
			exported += fmt.Sprintf("\n%s %+v %+v %+v %+v", s.Name(), s.Attributes(), s.Events(), s.Links(), s.Status())
		}
		if !strings.Contains(exported, "aside.load") || !strings.Contains(exported, "errorString") {
			t.Error("nothing is exported")
		}
		if i := strings.Index(exported, "secret"); i >= 0 {
			t.Errorf("exported: …%.100s", exported[i:])
		}
	})
}

// Two caches have one provider, and their names keep them apart.
func TestTwoCaches(t *testing.T) {
	t.Parallel()
	l := newLab()
	for _, name := range []string{"one", "two"} {
		c := l.open(t, name, aside.Config{})
		for range len(name) - 1 + strings.Count(name, "w") { // 2 of one, 3 of two
			if _, err := aside.GetOrLoad(t.Context(), c, space.Key("A"), func(context.Context) (string, error) { return "v", nil }); err != nil {
				t.Error(err)
			}
		}
	}
	l.want(t, map[string]int64{
		"aside.reads aside.cache=one,aside.keyspace=s,aside.outcome=hit":              1,
		"aside.reads aside.cache=two,aside.keyspace=s,aside.outcome=hit":              2,
		"aside.load.duration aside.cache=one,aside.keyspace=s,aside.load.reason=miss": 1,
		"aside.load.duration aside.cache=two,aside.keyspace=s,aside.load.reason=miss": 1,
	})
}

// Trouble is there from its begin to its end, by node.
func TestTroubles(t *testing.T) {
	t.Parallel()
	l := newLab()
	telemetry := l.telemetry(t, "")
	if err := telemetry.Watch(&fake{}); err != nil {
		t.Fatal(err)
	}
	state := telemetry.Hooks().State
	state(hook.State{Trouble: hook.Answer, Begins: true, Node: "10.0.0.1:6379"})
	state(hook.State{Trouble: hook.Answer, Begins: true, Node: "[::1]:6380"})
	state(hook.State{Trouble: hook.Store, Begins: true, Node: "/run/redis.sock"})
	state(hook.State{Trouble: hook.Queue, Begins: true})
	state(hook.State{Trouble: hook.Queue})
	state(hook.State{Trouble: hook.Answer, Node: "10.0.0.1:6379"})
	want := map[string]int64{
		"aside.troubles aside.trouble=answer,server.address=10.0.0.1,server.port=6379": 0,
		"aside.troubles aside.trouble=answer,server.address=::1,server.port=6380":      1,
		"aside.troubles aside.trouble=store,server.address=/run/redis.sock":            1,
		"aside.troubles aside.trouble=queue":                                           0,
	}
	got := l.series(t)
	maps.DeleteFunc(got, func(series string, _ int64) bool { return !strings.HasPrefix(series, "aside.troubles") })
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// informed is a backend that counts when it is asked about itself.
type informed struct {
	backend.Backend
	asked atomic.Int64
}

func (b *informed) Info(ctx context.Context) (backend.Info, error) {
	b.asked.Add(1)
	return b.Backend.Info(ctx)
}

// A collection does not wait for the backend, and reports a Cache whose backend fails.
func TestWatch_AsksNoBackend(t *testing.T) {
	t.Parallel()
	l := newLab()
	telemetry := l.telemetry(t, "")
	b := &informed{Backend: asidetest.Memory()}
	c, err := aside.New(b, aside.Config{Hooks: []hook.Hooks{telemetry.Hooks()}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := telemetry.Watch(c); err != nil {
		t.Fatal(err)
	}
	if _, err := aside.GetOrLoad(t.Context(), c, space.Key("A"), func(context.Context) (string, error) { return "v", nil }); err != nil {
		t.Error(err)
	}
	l.want(t, map[string]int64{"aside.reads aside.keyspace=s,aside.outcome=miss": 1})
	if n := b.asked.Load(); n != 0 {
		t.Errorf("the backend was asked %d times, want never", n)
	}
}

// A closed Cache is not watched, nor is one of two, and one that is closed later has no
// series any more. Close ends it, and lets another be watched.
func TestWatch(t *testing.T) {
	t.Parallel()
	l := newLab()
	telemetry := l.telemetry(t, "")
	open := func() aside.Cache {
		c, err := aside.Open(aside.Config{Type: "memory"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	size := func(want int) {
		t.Helper()
		if got := len(l.series(t)); got != want {
			t.Errorf("%d series, want %d", got, want)
		}
	}
	closed := open()
	closed.Close()
	if err := telemetry.Watch(closed); !errors.Is(err, aside.ErrClosed) {
		t.Errorf("a closed one: %v, want %v", err, aside.ErrClosed)
	}
	if err := telemetry.Watch(nil); err == nil {
		t.Error("none: no error")
	}
	c := open()
	if err := telemetry.Watch(c); err != nil {
		t.Error(err)
	}
	if err := telemetry.Watch(open()); err == nil {
		t.Error("a second one: no error")
	}
	size(3) // the queue's size and overflow, and the breaker
	c.Close()
	size(0)
	for range 2 {
		if err := telemetry.Close(); err != nil {
			t.Error(err)
		}
	}
	c = open()
	if err := telemetry.Watch(c); err != nil {
		t.Error(err)
	}
	size(3)
	if err := telemetry.Close(); err != nil {
		t.Error(err)
	}
	size(0)
}

// hanging is a Cache whose Status waits for the test, once it is watched.
type hanging struct {
	fake
	asked, answer chan struct{}
}

func (h *hanging) Status(context.Context) (aside.Status, error) {
	h.asked <- struct{}{}
	<-h.answer
	return h.status, nil
}

// Close and Watch during a collection wait for its end, and for nothing else.
func TestWatch_DuringACollection(t *testing.T) {
	t.Parallel()
	l := newLab()
	telemetry := l.telemetry(t, "")
	h := &hanging{asked: make(chan struct{}), answer: make(chan struct{})}
	var calls sync.WaitGroup
	calls.Go(func() {
		if err := telemetry.Watch(h); err != nil {
			t.Error(err)
		}
	})
	<-h.asked // Watch asks whether it is closed
	h.answer <- struct{}{}
	calls.Wait()
	calls.Go(func() { l.collect(t) })
	<-h.asked
	calls.Go(func() {
		if err := telemetry.Close(); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(20 * time.Millisecond) // Close most likely waits by now, which the test does not need
	calls.Go(func() {
		if err := telemetry.Watch(&fake{}); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(20 * time.Millisecond) // and Watch
	h.answer <- struct{}{}
	calls.Wait()
}

// Two readers of one provider collect at the same time, as for two exporters.
func TestWatch_ByTwoReaders(t *testing.T) {
	t.Parallel()
	readers := []*sdkmetric.ManualReader{sdkmetric.NewManualReader(), sdkmetric.NewManualReader()}
	l := newLab()
	l.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(readers[0]), sdkmetric.WithReader(readers[1]))
	c := l.open(t, "", aside.Config{})
	if _, err := aside.GetOrLoad(t.Context(), c, space.Key("A"), func(context.Context) (string, error) { return "v", nil }); err != nil {
		t.Error(err)
	}
	var group sync.WaitGroup
	for _, reader := range readers {
		group.Go(func() {
			for range 200 {
				var all metricdata.ResourceMetrics
				if err := reader.Collect(t.Context(), &all); err != nil || len(all.ScopeMetrics) != 1 {
					t.Errorf("%v, %d scopes, want 1", err, len(all.ScopeMetrics))
				}
			}
		})
	}
	group.Wait()
}

// Everything at once, for the race detector: reads are counted once each.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	l := newLab()
	telemetry := l.telemetry(t, "")
	c, err := aside.Open(aside.Config{Type: "memory", Audit: 0.1, Hooks: []hook.Hooks{telemetry.Hooks()}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := telemetry.Watch(c); err != nil {
		t.Fatal(err)
	}
	tracer := l.traces.Tracer("test")
	s := aside.Keyspace{Name: "s", TTL: time.Hour, RefreshAfter: time.Millisecond}
	var group sync.WaitGroup
	const readers, each = 8, 200
	for range readers {
		group.Go(func() {
			ctx, span := tracer.Start(t.Context(), "caller")
			defer span.End()
			for i := range each {
				key := s.Key(fmt.Sprint(i % 7))
				if _, err := aside.GetOrLoad(ctx, c, key, func(context.Context) (string, error) { return "v", nil }); err != nil {
					t.Error(err)
				}
				if i%10 == 0 {
					_ = aside.Invalidate(ctx, c, key)
				}
				if i%50 == 0 {
					telemetry.Hooks().State(hook.State{Trouble: hook.Queue, Begins: i%100 == 0})
					l.collect(t)
				}
			}
		})
	}
	group.Wait()
	var sum int64
	for series, n := range l.series(t) {
		if strings.HasPrefix(series, "aside.reads ") {
			sum += n
		}
	}
	if sum != readers*each {
		t.Errorf("%d reads, want %d", sum, readers*each)
	}
	group.Go(func() { l.collect(t) })
	if err := telemetry.Close(); err != nil {
		t.Error(err)
	}
	group.Wait()
}
