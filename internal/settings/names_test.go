package settings

import (
	"fmt"
	"slices"
	"testing"
)

func TestUnknownVars(t *testing.T) {
	t.Parallel()
	const unused = " is not a setting of the cache, and not used"
	for name, want := range map[string]string{
		"CACHE_WHATEVER":                    "CACHE_WHATEVER" + unused,
		"REDIS_X":                           "REDIS_X" + unused,
		"REDIS_P":                           "REDIS_P" + unused, // the begin of several
		"REDIS_PASSPHRASE":                  "REDIS_PASSPHRASE" + unused,
		"REDIS_HSOT":                        "REDIS_HSOT" + unused + "; REDIS_HOST was probably meant",
		"REDIS_PASS":                        "REDIS_PASS" + unused + "; REDIS_PASSWORD was probably meant",
		"CACHE_TIMEOUT_MS":                  "CACHE_TIMEOUT_MS" + unused + "; CACHE_TIMEOUT was probably meant",
		"Redis_Url":                         "Redis_Url" + unused + "; REDIS_URL was probably meant",
		"CACHE_TTL_CHAT_MESSAGE":            `CACHE_TTL_CHAT_MESSAGE is taken for the time to live of a keyspace "chat_message"; CACHE_TTL_CHAT_MESSAGES was probably meant`,
		"CACHE_TTL_SESSION":                 "",
		"CACHE_REFRESH_USERCHATS":           `CACHE_REFRESH_USERCHATS is taken for the RefreshAfter of a keyspace "userchats"; CACHE_REFRESH_USER_CHATS was probably meant`,
		"CACHE_REFRESH_AFTER_CHAT_MESSAGES": `CACHE_REFRESH_AFTER_CHAT_MESSAGES is taken for the RefreshAfter of a keyspace "after_chat_messages"; CACHE_REFRESH_CHAT_MESSAGES was probably meant`,
		"CACHE_REFRESH_SESSION":             "",
		"CACHE_REFRSH_SESSION":              "CACHE_REFRSH_SESSION" + unused,
		"REDIS_HOST":                        "",
		"REDIS_A B":                         "", // no variable's name
		"REDISX":                            "",
		"REDIS_6380_PORT":                   "REDIS_6380_PORT" + unused,
	} {
		got := UnknownVars(map[string]string{name: "5"}, true)
		if want == "" && len(got) > 0 || want != "" && !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	env := make(map[string]string)
	for i := range 25 {
		env[fmt.Sprint("CACHE_WHATEVER_", i)] = "5"
	}
	if got := UnknownVars(env, true); len(got) != 21 || got[20] != "5 more variables are not settings of the cache" {
		t.Errorf("got %d lines, %q", len(got), got)
	}
}
