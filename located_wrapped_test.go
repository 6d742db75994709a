package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/logtest"
)

// aroundJSON is a Codec of a user's that leaves the JSON to the library.
type aroundJSON struct{}

func (aroundJSON) Encode(value any) ([]byte, error) { return aside.JSON.Encode(value) }
func (aroundJSON) Decode(data []byte, ptr any) error {
	if err := aside.JSON.Decode(data, ptr); err != nil {
		return fmt.Errorf("around: %w", err)
	}
	return nil
}

// readsOtherwise refuses what it has written, and shows it.
type readsOtherwise struct{ s string }

func (v readsOtherwise) MarshalText() ([]byte, error)     { return []byte(v.s), nil }
func (v *readsOtherwise) UnmarshalJSON(data []byte) error { return errors.New("no " + string(data)) }

// panicsEncoding panics with what it is.
type panicsEncoding struct{ s string }

func (v panicsEncoding) MarshalJSON() ([]byte, error)  { panic("no " + v.s) }
func (v *panicsEncoding) UnmarshalJSON(_ []byte) error { return nil }

type placed struct {
	At   time.Time            `json:"created_at"`
	By   map[string]time.Time `json:"by"`
	Held []any                `json:"held"`
	N    int                  `json:"n,string"`
}

// logOf returns what is logged of one read of a key with stored under it.
func logOf[T any](t *testing.T, codec aside.Codec, stored string, loaded T) string {
	t.Helper()
	var log logtest.Buffer
	c := open(t, aside.Config{Type: "memory", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	key := aside.Keyspace{Name: "item", Codec: codec}.Key("1")
	if stored != "" {
		if err := c.Set(t.Context(), key.String(), []byte(stored), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (T, error) { return loaded, nil }); err != nil {
		t.Fatal(err)
	}
	return log.String()
}

// A part that a method refuses has its place in the log, too, and a Codec that wraps
// JSON logs as little of the value as JSON does. A map's keys are of the value.
func TestP8_TheLogSaysWhereAMethodRefusesAPart(t *testing.T) {
	t.Parallel()
	for stored, want := range map[string]string{
		`[{},{"created_at":"` + loggedSecret + `"}]`:               "at byte 18, /1/created_at, with a *time.ParseError",
		`[{"by":{"` + loggedSecret + `":"` + loggedSecret + `"}}]`: "/0/by/*, with a *time.ParseError",
		`[{"n":"x` + loggedSecret + `"}]`:                          "/0/n",
		`[{"held":{"` + loggedSecret + `":1}}]`:                    "not a JSON object",
		`[{"n":` + loggedSecret + `}]`:                             "at byte",
	} {
		for name, codec := range map[string]aside.Codec{"JSON": nil, "a Codec around it": aroundJSON{}} {
			if text := logOf(t, codec, stored, []placed{}); !strings.Contains(text, want) || strings.Contains(text, loggedSecret[:6]) {
				t.Errorf("%s, %s: logged %q, want %q and nothing of the value", name, stored, text, want)
			}
		}
	}
}

func TestTheLogShowsNothingOfAValueThatItsMethodsRefuse(t *testing.T) {
	t.Parallel()
	texts := map[string]string{
		"it refuses its own JSON": logOf(t, nil, "", readsOtherwise{loggedSecret}),
		"it panics":               logOf(t, nil, "", panicsEncoding{loggedSecret}),
	}
	for name, text := range texts {
		if !strings.Contains(text, "not stored") || strings.Contains(text, loggedSecret[:6]) || strings.Contains(text, "loader panicked") {
			t.Errorf("%s: logged %q, want nothing of the value", name, text)
		}
	}
}
