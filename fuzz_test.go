package aside_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/cacheaside/aside"
)

// Any value in the environment is used, or named in the error.
func FuzzConfigFromEnv(f *testing.F) {
	for _, name := range []string{
		"CACHE_ENABLED", "CACHE_TYPE", "CACHE_KEY_PREFIX", "CACHE_TTL_USER", "CACHE_TTL_", "CACHE_TTL_JITTER", "CACHE_REFRESH_USER_CHATS", "CACHE_REFRESH_USER", "CACHE_REFRESH_", "CACHE_TIMEOUT", "CACHE_LOAD_TIMEOUT",
		"CACHE_MEMORY_MAX_BYTES", "CACHE_NEAR_MAX_BYTES", "CACHE_MAX_VALUE_BYTES", "CACHE_QUEUE_SIZE", "CACHE_REFUSE_WRITES", "REDIS_URL", "REDIS_HOST", "REDIS_PORT",
		"REDIS_DB", "REDIS_TLS", "REDIS_CLUSTER", "REDIS_SENTINEL_MASTER", "REDIS_WAIT_REPLICAS",
		"REDIS_USERNAME", "REDIS_SENTINEL_USERNAME", "REDIS_SENTINEL_PASSWORD", "REDIS_HOSTS",
	} {
		for _, value := range []string{"true", "1800", "30m", "-1", "1e400", "redis://u:p@h:1/0", "a,b:1,[::1]:2", "{t}x", "\x00",
			"rediss://h?pool_size=9&ssl_cert_reqs=none&encoding=x", "unix:///s?db=1", "h:1,password=x,ssl=True", "tcp://1.2.3.4:5"} {
			f.Add(name, value)
		}
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		// Where a secret stands in the value, it is not shown.
		for _, form := range []string{"redis://:hunter2@%s", "redis://u:%shunter2@h", "%s,password=hunter2", "redis://h/?password=hunter2&%s", "redis://h/0?%s=hunter2"} {
			if form = strings.Replace(form, "%s", value, 1); strings.HasPrefix(name, "REDIS_") && !strings.Contains(value, "hunter2") {
				cfg, err := fromEnv(map[string]string{name: form})
				inForce, _ := cfg.InForce()
				if shown := fmt.Sprint(err, inForce.Redis.Hosts, cfg.Warnings); strings.Contains(shown, "hunter2") {
					t.Errorf("%s=%q: the secret is shown: %s", name, form, shown)
				}
			}
		}
		cfg, err := fromEnv(map[string]string{name: value, "REDIS_PASSWORD": "hunter2"})
		if err != nil {
			if !strings.Contains(err.Error(), name) && !strings.Contains(err.Error(), "Config.") {
				t.Errorf("%s=%q: the error does not name it: %v", name, value, err)
			}
			if !strings.Contains(err.Error(), "want ") && !strings.Contains(err.Error(), "accepted") && !strings.Contains(err.Error(), "set ") {
				t.Errorf("%s=%q: the error does not say what is wanted: %v", name, value, err)
			}
			return
		}
		c, err := aside.Open(cfg) // does not connect
		if err != nil {
			t.Fatalf("%s=%q was taken, and then refused: %v", name, value, err)
		}
		c.Close()
	})
}

// Any id is a key of its own, or an error.
func FuzzKeys(f *testing.F) {
	for _, id := range []string{"A", "{A}", "}{", "a{}b", ":", "A:lease", "대화방", "\x00", "*", "[a]"} {
		f.Add("chat_messages", id, id+"}")
	}
	c, err := aside.Open(aside.Config{Type: "memory", MemoryMaxBytes: 1 << 30})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close() })
	f.Fuzz(func(t *testing.T, name, id, other string) {
		space := aside.Keyspace{Name: name, TTL: time.Minute}
		for range 2 {
			for _, id := range []string{id, other} {
				want := name + "/" + id
				got, err := aside.GetOrLoad(t.Context(), c, space.Key(id), func(context.Context) ([]byte, error) { return []byte(want), nil })
				if err != nil && aside.Invalidate(t.Context(), c, space.Key(id)) == nil {
					t.Errorf("%q can be invalidated, and not read: %v", space.Key(id), err)
				} else if err == nil && string(got) != want {
					t.Errorf("%q: got %q", space.Key(id), got)
				}
			}
		}
	})
}

// gobCodec is a Codec that panics on some of the bytes it did not write.
type gobCodec struct{}

func (gobCodec) Encode(value any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(value)
	return b.Bytes(), err
}

func (gobCodec) Decode(data []byte, ptr any) error {
	if len(data) > 0 && data[0] == 0xff {
		panic("not mine")
	}
	return gob.NewDecoder(bytes.NewReader(data)).Decode(ptr)
}

type fuzzed struct {
	Role, Content string
	Score         float64
	Tags          map[string]any
	Parent        *fuzzed
}

// For any bytes that another program has stored, a reader gets the value that the codec
// decodes from them, or the loaded one.
func FuzzStoredBytes(f *testing.F) {
	for _, text := range []string{"", "null", "[]", "{}", `[{"Role":"user"}]`, `[{"Role":1}]`, "[" + strings.Repeat("[", 100), `[{"Score":1e999}]`, "\xff\xfe", `[null]`, ` null `, `"\ud800"`} {
		f.Add([]byte(text))
	}
	encoded, _ := gobCodec{}.Encode([]fuzzed{{Role: "user"}})
	f.Add(encoded)
	c, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close() })
	spaces := []aside.Keyspace{{Name: "json"}, {Name: "shared", Share: true}, {Name: "gob", Codec: gobCodec{}}}
	f.Fuzz(func(t *testing.T, stored []byte) {
		for _, space := range spaces {
			stores(t, c, space, stored, []fuzzed{{Role: "loaded"}})
			stores(t, c, space, stored, map[string]int{"loaded": 1})
			stores(t, c, space, stored, "loaded")
		}
		raw := aside.Keyspace{Name: "bytes", Codec: aside.Bytes}
		stores(t, c, raw, stored, "loaded")
		stores(t, c, raw, stored, []byte("loaded"))
	})
}

func stores[T any](t *testing.T, c aside.Cache, space aside.Keyspace, stored []byte, loaded T) {
	t.Helper()
	key := space.Key("1")
	if err := c.Set(t.Context(), key.String(), bytes.Clone(stored), time.Minute); err != nil {
		t.Fatal(err)
	}
	got, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (T, error) { return loaded, nil })
	if err != nil {
		t.Fatal(err)
	}
	want, ok := decoded[T](space, stored)
	if !ok {
		want = loaded
	}
	if !cmp.Equal(got, want) {
		t.Errorf("%s of %q as %T: got %v, want %v", space.Name, stored, want, got, want)
	}
	if !ok { // it has been replaced
		if again, _, _ := c.Get(t.Context(), key.String()); bytes.Equal(again, stored) {
			t.Errorf("%s of %q as %T: what does not decode is still stored", space.Name, stored, want)
		}
	}
}

// decoded is what the bytes say, by the codecs themselves.
func decoded[T any](space aside.Keyspace, stored []byte) (value T, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	if space.Codec != nil {
		return value, space.Codec.Decode(stored, &value) == nil
	}
	if string(bytes.TrimSpace(stored)) == "null" {
		_, isString := any(value).(string)
		return value, !isString
	}
	var zero T
	if !utf8.Valid(stored) || json.Unmarshal(stored, &value) != nil {
		return zero, false
	}
	return value, true
}
