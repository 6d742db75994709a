package settings

import (
	"errors"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	duration, number, share := Duration(time.Second, time.Hour), Int(-1, 10), Float(0, 0.9)
	parsers := map[string]func(string) (any, error){
		"duration": func(s string) (any, error) { return duration(s) },
		"int":      func(s string) (any, error) { return number(s) },
		"float":    func(s string) (any, error) { return share(s) },
		"bool":     func(s string) (any, error) { return Bool(s) },
	}
	for kind, texts := range map[string]map[string]any{
		"duration": {"1": time.Second, "1.5": 1500 * time.Millisecond, "1s": time.Second, "1h": time.Hour, "3600": time.Hour, "1e3": 1000 * time.Second,
			"0.9": nil, "3601": nil, "999ms": nil, "1h1ms": nil, "0": nil, "-1": nil, "NaN": nil, "Inf": nil, "1e400": nil, "": nil, "1 s": nil, "s": nil},
		"int":   {"-1": int64(-1), "10": int64(10), "+1": int64(1), "007": int64(7), "-2": nil, "11": nil, "1e1": nil, "1.0": nil, "0x1": nil, "1_0": nil, "": nil, "99999999999999999999": nil},
		"float": {"0": 0.0, "0.9": 0.9, ".5": 0.5, "0.91": nil, "-0.1": nil, "NaN": nil, "x": nil, "": nil},
		"bool":  {"true": true, "YES": true, "On": true, "1": true, "false": false, "No": false, "off": false, "0": false, "2": nil, "t": nil, "": nil, "truee": nil},
	} {
		for text, want := range texts {
			got, err := parsers[kind](text)
			if want == nil && !errors.Is(err, ErrRejected) || want != nil && (err != nil || got != want) {
				t.Errorf("%s %q: got %v, %v; want %v", kind, text, got, err, want)
			}
		}
	}
}
