package aside_test

import (
	"maps"
	"strings"
	"testing"
	"time"
)

func TestSettings_TwoSpellingsOfAKeyspace(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{
		{"CACHE_TTL_chat_messages", "CACHE_TTL_CHAT_MESSAGES"}, {"CACHE_TTL_FOO", "CACHE_TTL_Foo"}, {"CACHE_TTL_FOO", "CACHE_TTL_foo", "CACHE_TTL_fOO"},
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
	cfg, err := fromEnv(map[string]string{"CACHE_TTL_LEASE": "", "CACHE_TTL_": " ", "CACHE_TTL_MY KEY": "", "CACHE_TTL_CHAT_MESSAGES": "\t"})
	if err != nil || !maps.Equal(cfg.TTLs, want) || len(cfg.Warnings) > 0 {
		t.Errorf("%v, %q, %v", cfg.TTLs, cfg.Warnings, err)
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
	})
	if err != nil || !maps.Equal(cfg.TTLs, want) || len(cfg.Warnings) > 0 {
		t.Errorf("%v, %q, %v", cfg.TTLs, cfg.Warnings, err)
	}
	if cfg, err := fromEnv(map[string]string{"CACHE_TTL_PORT": "60"}); err != nil || cfg.TTLs["port"] != time.Minute {
		t.Errorf("a keyspace port: %v, %v", cfg.TTLs, err)
	}
}
