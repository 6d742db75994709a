package aside_test

import (
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside"
)

func TestSettings_TwoSpellingsOfAKeyspace(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{
		{"CACHE_TTL_chat_messages", "CACHE_TTL_CHAT_MESSAGES"}, {"CACHE_TTL_FOO", "CACHE_TTL_Foo"}, {"CACHE_TTL_FOO", "CACHE_TTL_foo", "CACHE_TTL_fOO"},
		{"CACHE_REFRESH_user_chats", "CACHE_REFRESH_USER_CHATS"},
	} {
		env := make(map[string]string)
		for i, name := range names {
			env[name] = []string{"60", "70", "80"}[i]
		}
		_, err := fromEnv(env)
		for _, name := range names {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%q: want %s in the error: %v", names, name, err)
			}
		}
	}
	cfg, err := fromEnv(map[string]string{"CACHE_TTL_FOO": "60", "CACHE_TTL_Foo": " "})
	if err != nil || cfg.TTLs["foo"] != time.Minute {
		t.Errorf("with an empty one: %v, %v", cfg.TTLs, err)
	}
}

func TestSettings_AnEmptyVariableIsNone(t *testing.T) {
	t.Parallel()
	want := must(fromEnv(nil)).TTLs
	cfg, err := fromEnv(map[string]string{"CACHE_TTL_LEASE": "", "CACHE_TTL_": " ", "CACHE_TTL_MY KEY": "", "CACHE_TTL_CHAT_MESSAGES": "\t", "CACHE_REFRESH_LEASE": "", "CACHE_REFRESH_GENERATION": " "})
	if err != nil || !maps.Equal(cfg.TTLs, want) || len(cfg.RefreshAfter)+len(cfg.Warnings) > 0 {
		t.Errorf("%v, %v, %q, %v", cfg.TTLs, cfg.RefreshAfter, cfg.Warnings, err)
	}
}

// Kubernetes sets these for a Service that is named cache-ttl-x.
func TestSettings_ServiceLinksAreNoKeyspaces(t *testing.T) {
	t.Parallel()
	want := must(fromEnv(nil)).TTLs
	cfg, err := fromEnv(map[string]string{
		"CACHE_TTL_X_SERVICE_HOST": "10.0.0.1", "CACHE_TTL_X_SERVICE_PORT": "6379", "CACHE_TTL_X_SERVICE_PORT_HTTP": "80", "CACHE_TTL_X_PORT": "tcp://10.0.0.1:6379",
		"CACHE_TTL_X_PORT_6379_TCP": "tcp://10.0.0.1:6379", "CACHE_TTL_X_PORT_6379_TCP_ADDR": "10.0.0.1", "CACHE_TTL_X_PORT_6379_TCP_PORT": "6379", "CACHE_TTL_X_PORT_6379_TCP_PROTO": "tcp",
		"CACHE_TTL_SERVICE_HOST": "10.0.0.1", "CACHE_TTL_PORT": "tcp://10.0.0.1:6379", "CACHE_TTL_JITTER_PORT": "tcp://10.0.0.1:6379",
		"CACHE_REFRESH_X_SERVICE_HOST": "10.0.0.1", "CACHE_REFRESH_X_PORT": "tcp://10.0.0.1:6379", "CACHE_REFRESH_X_PORT_6379_TCP_PROTO": "tcp", "CACHE_REFRESH_PORT": "tcp://10.0.0.1:6379",
	})
	if err != nil || !maps.Equal(cfg.TTLs, want) || len(cfg.RefreshAfter)+len(cfg.Warnings) > 0 {
		t.Errorf("%v, %v, %q, %v", cfg.TTLs, cfg.RefreshAfter, cfg.Warnings, err)
	}
	if cfg, err := fromEnv(map[string]string{"CACHE_TTL_PORT": "60"}); err != nil || cfg.TTLs["port"] != time.Minute {
		t.Errorf("a keyspace port: %v, %v", cfg.TTLs, err)
	}
}

// An age that values do not reach is refused by the names that the user has for it, at once
// where the time to live is known, and otherwise when the keyspace is.
func TestSettings_RefreshAfterWhatValuesDoNotReach(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"CACHE_REFRESH_CHAT_MESSAGES=30m CACHE_TTL_JITTER=0.1":       {"CACHE_REFRESH_CHAT_MESSAGES 30m0s: want at most 27m0s", "CACHE_TTL_CHAT_MESSAGES (30m0s)", "CACHE_TTL_JITTER (0.1)"},
		"CACHE_REFRESH_user_chats=1801 CACHE_TTL_USER_CHATS=30m":     {"CACHE_REFRESH_user_chats 30m1s: want at most 30m0s", "CACHE_TTL_USER_CHATS"},
		"CACHE_REFRESH_X=61 CACHE_TTL_X=60":                          {"CACHE_REFRESH_X", "CACHE_TTL_X (1m0s)"},
		"CACHE_REFRESH_X=60 CACHE_TTL_X=60":                          nil,
		"CACHE_REFRESH_CHAT_MESSAGES=27m CACHE_TTL_JITTER=0.1":       nil,
		"CACHE_REFRESH_CHAT_MESSAGES=1h CACHE_TTL_CHAT_MESSAGES=-1h": {"CACHE_TTL_CHAT_MESSAGES=\"-1h\""}, // which is all that is wrong
	} {
		env := make(map[string]string)
		for variable := range strings.FieldsSeq(text) {
			name, value, _ := strings.Cut(variable, "=")
			env[name] = value
		}
		_, err := fromEnv(env)
		if want == nil && err != nil {
			t.Errorf("%s: %v", text, err)
		}
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "Config.") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: want one error with %q: %v", text, part, err)
			}
		}
	}
	cfg := must(fromEnv(map[string]string{"CACHE_TYPE": "memory", "CACHE_REFRESH_USER": "11m"})) // the time to live is the keyspace's
	users := aside.Keyspace{Name: "user", TTL: 10 * time.Minute}
	c := must(aside.Open(cfg))
	defer c.Close()
	_, read := aside.GetOrLoad(t.Context(), c, users.Key("1"), fails(t))
	cfg.Keyspaces = []aside.Keyspace{users}
	for _, err := range []error{read, opens(cfg)} {
		if err == nil || !strings.Contains(err.Error(), "CACHE_REFRESH_USER") || !strings.Contains(err.Error(), "want at most 10m0s") {
			t.Errorf("want an error that names CACHE_REFRESH_USER: %v", err)
		}
	}
}

// An age of the environment takes the place of the keyspace's own, also with 0.
func TestSettings_RefreshAfterTakesPrecedence(t *testing.T) {
	t.Parallel()
	s := aside.Keyspace{Name: "user", TTL: 10 * time.Minute, RefreshAfter: time.Minute}
	for text, want := range map[string]time.Duration{"": time.Minute, "0": 0, "0s": 0, "0.0": 0, "120": 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, must(fromEnv(map[string]string{"CACHE_TYPE": "memory", "CACHE_REFRESH_USER": text})))
			n := &numbered{}
			get(t, c, s, n.load, "v1")
			for _, d := range []time.Duration{want - time.Millisecond, 2 * time.Millisecond} {
				if want == 0 {
					d = 4 * time.Minute
				}
				time.Sleep(d)
				get(t, c, s, n.load, "v1")
				synctest.Wait()
				if old := want > 0 && d == 2*time.Millisecond; old != (stats(t, c).Refreshes == 1) {
					t.Errorf("CACHE_REFRESH_USER=%q: after %v more %d refreshes", text, d, stats(t, c).Refreshes)
				}
			}
		})
	}
}
