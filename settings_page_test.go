package aside_test

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cacheaside/aside"
)

var settingsRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (?:`([^`]*)` |)\\| (`[^|]+`) \\|")

// docs/settings.md has a row for each variable that is read and for each field of Config,
// no other, and the defaults that are in force.
func TestSettingsPage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	page, without, ok := strings.Cut(string(text), "\n## Fields without a variable\n")
	if !ok {
		t.Fatal("the section of fields without a variable is gone")
	}
	without, _, _ = strings.Cut(without, "\n## ")

	none, err := aside.ConfigFromEnv(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := inForce(t, none)
	var names, fields []string
	for _, row := range settingsRow.FindAllStringSubmatch(page, -1) {
		name, value := row[1], row[2]
		names = append(names, strings.TrimSuffix(name, "<NAME>"))
		for field := range strings.SplitSeq(row[3], ", ") {
			fields = append(fields, "Config."+strings.Trim(field, "`"))
		}
		if value == "" {
			continue
		}
		cfg, err := aside.ConfigFromEnv([]string{name + "=" + value})
		if err != nil {
			t.Errorf("the default of %s: %v", name, err)
		} else if got := inForce(t, cfg); !reflect.DeepEqual(got, want) {
			t.Errorf("%s=%s is not the default: got %+v, want %+v", name, value, got, want)
		}
	}
	for _, name := range variables(t) {
		if !slices.Contains(names, name) {
			t.Errorf("the page has no row for %s", name)
		}
	}
	for _, name := range names {
		if !slices.Contains(variables(t), name) && !strings.HasPrefix(name, "CACHE_TTL_") { // of any keyspace
			t.Errorf("the page has a row for %s, which is not read", name)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Za-z.]+)` \\|").FindAllStringSubmatch(without, -1) {
		fields = append(fields, "Config."+row[1])
	}
	for _, field := range configFields(reflect.TypeFor[aside.Config](), "Config.") {
		if !slices.Contains(fields, field) {
			t.Errorf("the page has no row for %s", field)
		}
	}
	for _, field := range fields {
		if !slices.Contains(configFields(reflect.TypeFor[aside.Config](), "Config."), field) {
			t.Errorf("the page names %s, which is no field", field)
		}
	}
}

// configFields names the fields of Config, those of Redis in the place of the struct.
func configFields(typ reflect.Type, path string) (names []string) {
	for i := range typ.NumField() {
		if f := typ.Field(i); f.Type == reflect.TypeFor[aside.Redis]() {
			names = append(names, configFields(f.Type, path+f.Name+".")...)
		} else {
			names = append(names, path+f.Name)
		}
	}
	return names
}

// inForce returns the settings in force, those of Redis with their defaults.
func inForce(t *testing.T, cfg aside.Config) aside.Config {
	t.Helper()
	got, err := cfg.InForce()
	if err != nil {
		t.Fatal(err)
	}
	got.Logger, got.Warnings = nil, nil
	return got
}
