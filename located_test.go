package aside_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/logtest"
)

const loggedSecret = "4242424242424242"

// talkative decodes itself, and its errors show what it was given.
type talkative struct{ s string }

func (v *talkative) UnmarshalJSON(data []byte) error { return errors.New("no " + string(data)) }
func (v talkative) MarshalJSON() ([]byte, error)     { return nil, errors.New("no " + v.s) }

type located struct {
	N  int       `json:"n"`
	At time.Time `json:"at"`
	In []struct {
		S string `json:"s"`
	} `json:"in"`
	T *talkative `json:"t"`
}

// The line about a value that does not decode says where it is wrong, and shows nothing
// of it.
func TestP8_TheLogSaysWhereAValueIsWrong(t *testing.T) {
	t.Parallel()
	for stored, want := range map[string]string{
		`{"n": "` + loggedSecret + `"}`:              `want a int, not a JSON string, at byte 24, field \"n\"`,
		`{"n": ` + loggedSecret + `.5}`:              `want a int, not a JSON number, at byte 24, field \"n\"`,
		`{"in": [{"s": ` + loggedSecret + `}]}`:      `want a string, not a JSON number, at byte 30, field \"in.s\"`,
		`{"n": ` + loggedSecret + loggedSecret + `}`: `want a int, not a JSON number`,
		`{"at": "` + loggedSecret + `"}`:             "a decoding method refuses a part of it at byte 7, /at, with a *time.ParseError",
		`{"t": "` + loggedSecret + `"}`:              "a decoding method refuses a part of it at byte 6, /t, with a *errors.errorString",
		`{"n": 1, ` + loggedSecret + `: 2}`:          "it is cut or wrong at byte 10",
		`"` + loggedSecret:                           "it is cut or wrong at byte 17",
		loggedSecret + "\xbe\xc8":                    "want JSON in UTF-8",
		`["` + loggedSecret + `"]`:                   "not a JSON array, at byte 1",
		"null":                                       "null",
	} {
		var log logtest.Buffer
		c := open(t, aside.Config{Type: "memory", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err := c.Set(t.Context(), items.Key("1").String(), []byte(stored), time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := aside.GetOrLoad(t.Context(), c, items.Key("1"), func(context.Context) (located, error) { return located{}, nil }); err != nil {
			t.Fatal(err)
		}
		if text := log.String(); !strings.Contains(text, want) || strings.Contains(text, loggedSecret[:6]) {
			t.Errorf("%s: logged %q, want %q and nothing of the value", stored, text, want)
		}
	}
}

// Nor does the line about a value that cannot be stored.
func TestTheLogShowsNothingOfAValueThatIsNotStored(t *testing.T) {
	t.Parallel()
	for _, value := range []any{talkative{loggedSecret}, map[string]any{"a": talkative{loggedSecret}}, json.RawMessage(loggedSecret + "x"), []string{loggedSecret + "\xe9"}} {
		var log logtest.Buffer
		c := open(t, aside.Config{Type: "memory", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if _, err := aside.GetOrLoad(t.Context(), c, items.Key("1"), func(context.Context) (any, error) { return value, nil }); err != nil {
			t.Fatal(err)
		}
		if text := log.String(); !strings.Contains(text, "not stored") || strings.Contains(text, loggedSecret[:6]) {
			t.Errorf("%T: logged %q, want nothing of the value", value, text)
		}
	}
}
