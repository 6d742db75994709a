package asideprom_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asideprom"
	"github.com/cacheaside/aside/hook"
)

// readme is README.md's excerpt, so that it is compiled.
func readme(cfg aside.Config, registry *prometheus.Registry) error {
	metrics := asideprom.New("chat")
	cfg.Hooks = append(cfg.Hooks, metrics.Hooks())
	cache, err := aside.Open(cfg)
	if err != nil {
		return err
	}
	metrics.Watch(cache)
	registry.MustRegister(metrics)
	return nil
}

var readmeRow = regexp.MustCompile("(?m)^\\| `(aside_[a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\|")

// README.md has every metric, with its type and labels, and no other.
func TestReadme_Metrics(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for _, row := range readmeRow.FindAllStringSubmatch(string(text), -1) {
		labels := strings.FieldsFunc(row[3], func(r rune) bool { return strings.ContainsRune("` ,", r) })
		slices.Sort(labels) // as those of a sample are
		want[row[1]] = fmt.Sprint(row[2], labels)
	}

	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	if err := aside.Invalidate(t.Context(), cache, aside.ChatMessages("1")); err != nil { // its keyspace has counts
		t.Fatal(err)
	}
	metrics := asideprom.New("chat")
	metrics.Watch(cache)
	hooks := metrics.Hooks()
	hooks.State(hook.State{Trouble: hook.Answer, Begins: true})
	hooks.Read(t.Context(), hook.Read{Keyspace: "s", Outcome: hook.Miss, Duration: time.Second})
	_, ended := hooks.Load(t.Context(), hook.Load{Keyspace: "s", Reason: hook.ForMiss, Keys: 1})
	ended(hook.LoadEnd{})
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, f := range families {
		labels := []string{}
		for _, l := range f.Metric[0].Label {
			if l.GetName() != "cache" {
				labels = append(labels, l.GetName())
			}
		}
		got[f.GetName()] = fmt.Sprint(strings.ToLower(f.GetType().String()), labels)
	}
	if !maps.Equal(got, want) {
		t.Errorf("README.md has\n%v, want\n%v", want, got)
	}
}

var _ = readme
