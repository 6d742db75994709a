package redact_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/internal/redact"
)

// said is a reply of Redis.
type said string

func (s said) Error() string { return string(s) }
func (said) RedisError()     {}

func TestSecrets_Text(t *testing.T) {
	t.Parallel()
	s := redact.New([]string{"", "hunter2", "hunter2-of/all"}, nil)
	for text, want := range map[string]string{
		"ERR invalid password hunter2": "ERR invalid password ***",
		"hunter2-of/all, hunter2":      "***, ***",
		"hunter2-of%2Fall":             "***",
		"hunter22 and xhunter2":        "hunter22 and xhunter2", // short: it may be a part of a word by chance
		"xhunter2-of/allx":             "x***x",
		"a longer text":                "a longer text",
		"hunter2hunter2":               "hunter2hunter2",
		"xhunter2 hunter2":             "xhunter2 ***",
		"ERR unknown command 'AUTH', with args beginning with: 'x' 'y' ":                  "ERR unknown command 'AUTH', with args beginning with: ***",
		"ERR unknown command 'AUTH', with args beginning with: 'x' \nERR another hunter2": "ERR unknown command 'AUTH', with args beginning with: ***\nERR another ***",
		"a: args beginning with: 'k'\nb: args beginning with: 'v'":                        "a: args beginning with: ***\nb: args beginning with: ***",
	} {
		if got := s.Text(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := redact.New([]string{"11"}, nil).Text("10.0.0.111:1"); got != "10.0.0.111:1" {
		t.Errorf("a short secret within a word: got %q", got)
	}
	quoted := redact.New([]string{"a\"b\\c\tdefgh"}, nil)
	if got := quoted.Text(`'a\"b\\c\tdefgh'`); got != "'***'" {
		t.Errorf("quoted: got %q", got)
	}
}

// An error that shows nothing is the same error. One that is hidden is still what it was
// to those who ask, and has the secret nowhere in it.
func TestSecrets_Error(t *testing.T) {
	t.Parallel()
	s := redact.New([]string{"hunter2"}, []string{"app", "default", ""})
	for _, err := range []error{nil, redis.Nil, errors.New("dial tcp app:6379: refused"), said("ERR for default")} {
		if got := s.Error(err); got != err {
			t.Errorf("got %v, want %v itself", got, err)
		}
	}
	for _, c := range []struct {
		err    error
		want   string
		prefix string
	}{
		{said("WRONGPASS of app: hunter2"), "WRONGPASS of ***: ***", "WRONGPASS"},
		{fmt.Errorf("hook of app: %w", said("NOPERM User app")), "hook of app: NOPERM User ***", "NOPERM"},
		{fmt.Errorf("hunter2: %w", said("NOPERM x")), "***: NOPERM x", "NOPERM"},
		{errors.New("proxy: hunter2"), "proxy: ***", ""},
		{errors.Join(said("NOPERM of app"), said("WRONGPASS of app")), "NOPERM of ***\nWRONGPASS of ***", "NOPERM"},
	} {
		got := s.Error(c.err)
		if got.Error() != c.want || c.prefix != "" && !redis.HasErrorPrefix(got, c.prefix) || !errors.Is(got, c.err) {
			t.Errorf("%v: got %v, want %s, and the same error to errors.Is", c.err, got, c.want)
		}
		for err := got; err != nil; err = errors.Unwrap(err) {
			if shown := fmt.Sprintf("%v %+v %#v %q %#v", err, err, err, err, errors.Join(err)); strings.Contains(shown, "hunter2") {
				t.Errorf("%v: got %s, want no secret", c.want, shown)
			}
		}
		var reply redis.Error
		if errors.As(got, &reply) != (c.prefix != "") || reply != nil && (strings.Contains(reply.Error(), "hunter2") || strings.Contains(reply.Error(), "User app")) {
			t.Errorf("%v: the reply is %v", c.want, reply)
		}
	}
	late := s.Error(fmt.Errorf("hunter2: %w", os.ErrDeadlineExceeded))
	var timeout interface{ Timeout() bool }
	if !errors.As(late, &timeout) || !timeout.Timeout() || !errors.Is(s.Error(fmt.Errorf("hunter2: %w", context.Canceled)), context.Canceled) {
		t.Errorf("got %v, want a time-out", late)
	}
}
