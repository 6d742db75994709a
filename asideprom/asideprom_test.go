package asideprom_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asideprom"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/hook"
)

// gather returns the samples of a registry that have a value other than 0, as in
// name{label="value",…}. Of a histogram it is the count.
func gather(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			if v != 0 {
				out[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = v
			}
		}
	}
	return out
}

func open(t *testing.T, m *asideprom.Metrics, cfg aside.Config) aside.Cache {
	t.Helper()
	cfg.Hooks = append(cfg.Hooks, m.Hooks())
	c, err := aside.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m.Watch(c)
	return c
}

func read(t *testing.T, c aside.Cache, key aside.Key, err error) {
	t.Helper()
	_, got := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return "v", err })
	if !errors.Is(got, err) {
		t.Fatal(got)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m := asideprom.New("chat")
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(m)
	if got := gather(t, r); len(got) != 0 {
		t.Errorf("before Watch: %v", got)
	}
	c := open(t, m, aside.Config{Type: "memory"})
	for range 3 {
		read(t, c, aside.ChatMessages("1"), nil)
	}
	read(t, c, aside.UserChats("u"), errors.New("failed"))
	read(t, c, aside.UserChats("u"), fmt.Errorf("no user: %w", aside.ErrNotFound))
	read(t, c, aside.UserChats("u"), fmt.Errorf("the query ended: %w", context.Canceled))
	func() {
		defer func() { _ = recover() }()
		_, _ = aside.GetOrLoad(t.Context(), c, aside.UserChats("p"), func(context.Context) (string, error) { panic(aside.ErrNotFound) })
	}()
	if err := aside.Invalidate(t.Context(), c, aside.ChatMessages("1"), aside.ChatMessages("2")); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		`aside_up{cache="chat"}`: 1,
		`aside_reads_total{cache="chat",keyspace="chat_messages",outcome="hit"}`:  2,
		`aside_reads_total{cache="chat",keyspace="chat_messages",outcome="miss"}`: 1,
		`aside_reads_total{cache="chat",keyspace="user_chats",outcome="miss"}`:    4,
		`aside_miss_duration_seconds{cache="chat",keyspace="chat_messages"}`:      1,
		`aside_miss_duration_seconds{cache="chat",keyspace="user_chats"}`:         4,

		`aside_load_duration_seconds{cache="chat",keyspace="chat_messages",reason="miss",result="ok"}`:     1,
		`aside_load_duration_seconds{cache="chat",keyspace="user_chats",reason="miss",result="error"}`:     2, // one of them panicked
		`aside_load_duration_seconds{cache="chat",keyspace="user_chats",reason="miss",result="canceled"}`:  1,
		`aside_load_duration_seconds{cache="chat",keyspace="user_chats",reason="miss",result="not_found"}`: 1,

		`aside_invalidations_total{cache="chat",keyspace="chat_messages"}`: 2,
	}
	if got := gather(t, r); !maps.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", text(got), text(want))
	}
	problems, err := testutil.GatherAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for name := range gather(t, r) {
		if !strings.Contains(name, "duration") {
			t.Errorf("after Close: %s", name)
		}
	}
}

func text(m map[string]float64) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprint(k, " ", m[k]))
	}
	return strings.Join(out, "\n")
}

// A value that is stale, an audit and a near hit are counted where the package comment says.
func TestMetrics_ThatArePartsOfOthers(t *testing.T) {
	t.Parallel()
	m := asideprom.New("chat")
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(m)
	c := open(t, m, aside.Config{Type: "memory", Audit: 1})
	s := aside.Keyspace{Name: "s", TTL: time.Hour, RefreshAfter: time.Millisecond}
	read(t, c, s.Key("A"), nil)
	stale := `aside_reads_total{cache="chat",keyspace="s",outcome="stale"}`
	for gather(t, r)[stale] == 0 {
		read(t, c, s.Key("A"), nil)
	}
	got, reads := gather(t, r), 0.0
	for name, v := range got {
		if strings.HasPrefix(name, "aside_reads_total") {
			reads += v
		}
	}
	st, err := c.Status(t.Context())
	if err != nil || reads != float64(st.Stats.Hits+st.Stats.Misses) {
		t.Errorf("%v reads in all, want hits and misses of %+v (%v)", reads, st.Stats, err)
	}
	read(t, c, aside.ChatMessages("1"), nil)
	read(t, c, aside.ChatMessages("1"), nil)
	equal := `aside_audits_total{cache="chat",keyspace="chat_messages",result="equal"}`
	for gather(t, r)[equal] == 0 {
		time.Sleep(time.Millisecond)
	}
}

func TestMetrics_OfTrouble(t *testing.T) {
	t.Parallel()
	m := asideprom.New("chat")
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(m)
	faulty := &asidetest.Faulty{Backend: asidetest.Memory()}
	c, err := aside.New(mute{faulty}, aside.Config{Hooks: []hook.Hooks{m.Hooks()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m.Watch(c)
	faulty.SetFault(func(context.Context, string) error { return errors.New("gone") })
	for range 5 {
		read(t, c, aside.ChatMessages("1"), nil)
	}
	if err := aside.Invalidate(t.Context(), c, aside.ChatMessages("1")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`aside_breaker_open{cache="chat"}`,
		`aside_trouble{cache="chat",node="",trouble="answer"}`,
		`aside_trouble{cache="chat",node="",trouble="queue"}`,
		`aside_queued_invalidations{cache="chat"}`,
		`aside_invalidations_queued_total{cache="chat",keyspace="chat_messages"}`,
	} {
		eventually(t, want, func() bool { return gather(t, r)[want] == 1 })
	}
	if gather(t, r)[`aside_up{cache="chat"}`] != 0 {
		t.Error("it is up")
	}
	faulty.SetFault(nil)
	eventually(t, "no trouble", func() bool {
		for name := range gather(t, r) {
			if strings.HasPrefix(name, "aside_trouble") || strings.HasPrefix(name, "aside_breaker_open") {
				return false
			}
		}
		return true
	})

	// The trouble of a Cache is forgotten with it.
	faulty.SetFault(func(context.Context, string) error { return errors.New("gone") })
	if err := aside.Invalidate(t.Context(), c, aside.ChatMessages("1")); err != nil {
		t.Fatal(err)
	}
	queue := `aside_trouble{cache="chat",node="",trouble="queue"}`
	eventually(t, queue, func() bool { return gather(t, r)[queue] == 1 })
	c.Close()
	for name := range gather(t, r) {
		if strings.HasPrefix(name, "aside_trouble") {
			t.Errorf("after Close: %s", name)
		}
	}
	open(t, m, aside.Config{Type: "memory"})
	if got := gather(t, r); got[queue] != 0 || got[`aside_up{cache="chat"}`] != 1 {
		t.Errorf("of the next Cache: %s", text(got))
	}
}

// A backend that does not answer keeps no more than the collections that ask it.
func TestMetrics_OfABackendThatHangs(t *testing.T) {
	t.Parallel()
	m := asideprom.New("chat")
	asked, answer := make(chan struct{}), make(chan struct{})
	c, err := aside.New(hanging{&asidetest.Faulty{Backend: asidetest.Memory()}, asked, answer}, aside.Config{Hooks: []hook.Hooks{m.Hooks()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m.Watch(c)
	collect := func() {
		out := make(chan prometheus.Metric, 100)
		m.Collect(out)
	}
	var group sync.WaitGroup
	group.Go(collect)
	<-asked
	group.Go(collect)
	<-asked // while the first waits
	m.Watch(c)
	close(answer)
	group.Wait()
}

// hanging is a backend whose Info does not return before the test says so.
type hanging struct {
	*asidetest.Faulty
	asked, answer chan struct{}
}

func (h hanging) Info(context.Context) (backend.Info, error) {
	h.asked <- struct{}{}
	<-h.answer
	return backend.Info{}, nil
}

// mute is a backend that says nothing of itself.
type mute struct{ *asidetest.Faulty }

func (mute) Info(context.Context) (backend.Info, error) { return backend.Info{}, errors.New("gone") }

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 2 minutes: ", what)
		}
	}
}

// Several caches live in one registry, which may be asked while they are used.
func TestMetrics_OfTwoCaches(t *testing.T) {
	t.Parallel()
	r := prometheus.NewPedanticRegistry()
	var group sync.WaitGroup
	for _, name := range []string{"one", "two\xff"} {
		m := asideprom.New(name)
		r.MustRegister(m)
		c := open(t, m, aside.Config{Type: "memory"})
		group.Go(func() {
			for i := range 1000 {
				read(t, c, aside.Keyspace{Name: fmt.Sprint("s", i%300)}.Key("A"), nil)
			}
		})
	}
	for range 20 {
		gather(t, r)
	}
	group.Wait()
	got := gather(t, r)
	for _, name := range []string{"one", "two?"} {
		if v := got[fmt.Sprintf(`aside_reads_total{cache=%q,keyspace="s1",outcome="hit"}`, name)]; v != 3 {
			t.Errorf("%s: %v hits, want 3", name, v)
		}
	}
}

// What the package comment, the alerts and the dashboard name are metrics that there are,
// with labels that they have; and the package comment names all.
func TestMetrics_AreDocumented(t *testing.T) {
	t.Parallel()
	descs := make(chan *prometheus.Desc, 100)
	asideprom.New("chat").Describe(descs)
	close(descs)
	described := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`)
	all := make(map[string][]string) // labels by name
	for d := range descs {
		m := described.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatal(d)
		}
		all[m[1]] = slices.DeleteFunc(strings.Split(m[2], ","), func(s string) bool { return s == "" })
	}
	source, err := os.ReadFile("asideprom.go")
	if err != nil {
		t.Fatal(err)
	}
	comment, _, _ := strings.Cut(string(source), "\npackage ")
	inComment := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?m)^//\t(aside_\w+)(?:\{([\w,]+)\})?`).FindAllStringSubmatch(comment, -1) {
		inComment[m[1]] = slices.DeleteFunc(strings.Split(m[2], ","), func(s string) bool { return s == "" })
	}
	if !maps.EqualFunc(all, inComment, slices.Equal[[]string]) {
		t.Errorf("the package comment names %v, want %v", inComment, all)
	}
	for _, file := range []string{"alerts.yaml", "dashboard.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if file == "dashboard.json" && !json.Valid(text) {
			t.Error("the dashboard is no JSON")
		}
		uses := regexp.MustCompile(`(aside_\w+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(strings.ReplaceAll(string(text), `\"`, `"`), -1)
		if len(uses) < 7 {
			t.Errorf("%s uses %d metrics", file, len(uses))
		}
		for _, use := range uses {
			name := use[1]
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				if base, ok := strings.CutSuffix(name, suffix); ok && strings.HasSuffix(base, "_seconds") {
					name = base
				}
			}
			labels, ok := all[name]
			if !ok {
				t.Errorf("%s uses %s, which is no metric", file, use[1])
			}
			for _, l := range regexp.MustCompile(`(\w+)=~?"`).FindAllStringSubmatch(use[2], -1) {
				if l[1] != "job" && l[1] != "cache" && !slices.Contains(labels, l[1]) {
					t.Errorf("%s uses %s by %s, a label that it does not have", file, name, l[1])
				}
			}
		}
	}
}
