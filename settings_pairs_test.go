package aside_test

import (
	"strings"
	"testing"

	"github.com/cacheaside/aside"
)

// go-redis authenticates only where there is a password: a user without one would be the
// default user in silence.
func TestSettings_AUserHasAPassword(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"REDIS_USERNAME=hunter2":                                               {"REDIS_USERNAME", "set REDIS_PASSWORD"},
		"REDIS_USERNAME=hunter2 REDIS_URL=redis://h":                           {"REDIS_USERNAME", "set REDIS_PASSWORD"},
		"REDIS_USERNAME=hunter2 REDIS_HOST=a,b":                                {"REDIS_USERNAME", "set REDIS_PASSWORD"},
		"REDIS_URL=redis://hunter2@h":                                          {"REDIS_URL", "redis://:password@host", "REDIS_PASSWORD"},
		"REDIS_URL=redis://hunter2@h REDIS_PASSWORD=hunter2":                   {"REDIS_URL", "both in the URL"}, // of another user, perhaps
		"REDIS_URL=redis://hunter2@h REDIS_USERNAME=u REDIS_PASSWORD=hunter2":  {"REDIS_URL", "both in the URL"},
		"REDIS_URL=rediss://hunter2:@h":                                        {"REDIS_URL", "rediss://:password@host"},
		"REDIS_URL=unix://hunter2@/s":                                          {"REDIS_URL", "unix://:password@/"},
		"REDIS_URL=redis://h?username=hunter2":                                 {"REDIS_URL", "redis://:password@host"},
		"REDIS_HOST=h REDIS_SENTINEL_MASTER=m REDIS_SENTINEL_USERNAME=hunter2": {"REDIS_SENTINEL_USERNAME", "set REDIS_SENTINEL_PASSWORD"},
	} {
		_, err := fromEnv(envOf(text))
		for _, want := range want {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: want %q and no secret: %v", text, want, err)
			}
		}
	}
	_, err := aside.Open(aside.Config{Redis: aside.Redis{Username: "hunter2"}})
	if err == nil || !strings.Contains(err.Error(), "set Config.Redis.Password") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Open: %v", err)
	}
	for _, text := range []string{
		"REDIS_USERNAME=default", "REDIS_URL=redis://default@h", "REDIS_URL=redis://:@h", "REDIS_URL=redis://default@h REDIS_PASSWORD=p",
		"REDIS_URL=redis://:p@h REDIS_USERNAME=u", "REDIS_SENTINEL_USERNAME=u",
	} {
		if _, err := fromEnv(envOf(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A reference that nothing has expanded is no password.
func TestSettings_UnexpandedReferencesAreReported(t *testing.T) {
	t.Parallel()
	for text, name := range map[string]string{
		"REDIS_URL=redis://:${HUNTER2}@h":                                                      "REDIS_URL",
		"REDIS_URL=redis://:$(HUNTER2)@h":                                                      "REDIS_URL",
		"REDIS_URL=redis://u:${HUNTER2:-x}@h":                                                  "REDIS_URL",
		"REDIS_URL=redis://h?password=%24%7BHUNTER2%7D":                                        "REDIS_URL",
		"REDIS_PASSWORD=${HUNTER2}":                                                            "REDIS_PASSWORD",
		"REDIS_USERNAME=${HUNTER2} REDIS_PASSWORD=p":                                           "REDIS_USERNAME",
		"REDIS_SENTINEL_MASTER=m REDIS_SENTINEL_USERNAME=u REDIS_SENTINEL_PASSWORD=$(HUNTER2)": "REDIS_SENTINEL_PASSWORD",
		"CACHE_KEY_PREFIX=${HUNTER2}:":                                                         "CACHE_KEY_PREFIX",
	} {
		cfg, err := fromEnv(envOf(text))
		if err != nil || len(cfg.Warnings) != 1 || !strings.HasPrefix(cfg.Warnings[0], name+" ") || !strings.Contains(cfg.Warnings[0], "expanded") || strings.Contains(cfg.Warnings[0], "HUNTER2") {
			t.Errorf("%s: want one warning of %s: %q, %v", text, name, cfg.Warnings, err)
		}
	}
	for _, text := range []string{"REDIS_PASSWORD=a$b{c}", "REDIS_PASSWORD=$$", "REDIS_PASSWORD=x${}", "REDIS_URL=redis://:a$b@h", "CACHE_KEY_PREFIX={tag}:"} {
		if cfg, err := fromEnv(envOf(text)); err != nil || len(cfg.Warnings) > 0 {
			t.Errorf("%s: %q, %v", text, cfg.Warnings, err)
		}
	}
}

// A variable that is empty leaves its default, whatever its name; one whose case differs
// from another program's, and a switch for TLS that is not REDIS_TLS, are reported.
func TestSettings_NamesThatWereSilent(t *testing.T) {
	t.Parallel()
	if _, err := aside.ConfigFromEnv([]string{"CACHE_TTL_LEASE=", "CACHE_TTL_= ", "CACHE_TTL_MY KEY="}); err != nil {
		t.Error(err)
	}
	for variable, want := range map[string]string{
		"cache_admin_token=hunter2": "cache_admin_token", "REDIS_SSL_ENABLED=true": "REDIS_TLS", "REDIS_TLS_ENABLED=1": "REDIS_TLS",
		"REDIS_HOSTNAME=h": "REDIS_HOST", "CACHE_CHAT_MESSAGES_TTL=5": "CACHE_TTL_CHAT_MESSAGES", "redis_prefix=x": "redis_prefix",
	} {
		cfg, err := aside.ConfigFromEnv([]string{variable})
		if err != nil || len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], want) || strings.Contains(cfg.Warnings[0], "hunter2") {
			t.Errorf("%s: got %q, %v, want one warning that names %s", variable, cfg.Warnings, err, want)
		}
	}
	for _, variable := range []string{"CACHE_ADMIN_TOKEN=x", "REDIS_SSL_CERT_REQS=none", "REDIS_SERVICE_HOST=10.0.0.1"} {
		if cfg, err := aside.ConfigFromEnv([]string{variable}); err != nil || len(cfg.Warnings) > 0 {
			t.Errorf("%s: got %q, %v, want nothing", variable, cfg.Warnings, err)
		}
	}
}
