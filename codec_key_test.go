package aside_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cacheaside/aside"
)

// boundCodec writes the key in front of a text, and refuses a text with another one.
type boundCodec struct {
	key   string
	panic bool
	none  bool
}

func (c boundCodec) ForKey(key string) aside.Codec {
	if c.panic {
		panic("no key for it")
	}
	if c.none {
		return nil
	}
	c.key = key
	return c
}

func (c boundCodec) Encode(value any) ([]byte, error) {
	return append([]byte(c.key+"|"), value.(string)...), nil
}

func (c boundCodec) Decode(data []byte, ptr any) error {
	text, ok := bytes.CutPrefix(data, []byte(c.key+"|"))
	if !ok {
		return errors.New("it was written for another key")
	}
	*ptr.(*string) = string(text)
	return nil
}

// A Codec that asks for the key binds a value to it: the value of another key is a miss.
func TestCodec_ForKey(t *testing.T) {
	t.Parallel()
	storingWith(t, aside.Config{KeyPrefix: "app:"}, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := newCache(t)
		s := aside.Keyspace{Name: "bound", TTL: time.Hour, Codec: boundCodec{}}
		load := func(v string) func(context.Context) (string, error) {
			return func(context.Context) (string, error) { return v, nil }
		}
		get(t, c, s, load("v1"), "v1")
		aside.AwaitFills(c)
		get(t, c, s, fails(t), "v1")
		data, _, err := c.Get(t.Context(), s.Key("A").String())
		if string(data) != "app:bound:A|v1" || err != nil {
			t.Errorf("stored %q, %v", data, err)
		}
		if err := c.Set(t.Context(), s.Key("B").String(), data, time.Hour); err != nil { // moved by somebody
			t.Fatal(err)
		}
		if v, _, ok, err := aside.Peek[string](t.Context(), c, s.Key("B")); ok || err == nil {
			t.Errorf("got %q of a value that was moved, want an error", v)
		}
		if v, err := aside.GetOrLoad(t.Context(), c, s.Key("B"), load("v2")); v != "v2" || err != nil {
			t.Errorf("got %q, %v of a value that was moved, want it loaded", v, err)
		}
		if v, left, ok, err := aside.Peek[string](t.Context(), c, s.Key("A")); v != "v1" || left == 0 || !ok || err != nil {
			t.Errorf("got %q, %v, %v, %v, want v1", v, left, ok, err)
		}
		for _, broken := range []boundCodec{{panic: true}, {none: true}} {
			s := aside.Keyspace{Name: "broken", Codec: broken}
			for range 2 {
				get(t, c, s, load("loaded"), "loaded")
			}
		}
		if s := stats(t, c); s.EncodeErrors == 0 || s.DecodeErrors != 1 {
			t.Errorf("%+v, want values that were not stored, and one that did not decode", s)
		}
	})
}
