package secrettest

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"testing"
)

func TestFound(t *testing.T) {
	t.Parallel()
	quoted, _ := json.Marshal(map[string]string{"a": Secret})
	for name, output := range map[string]string{
		"plain": "x " + Secret + " y", "%q": fmt.Sprintf("%q", Secret), "JSON": string(quoted), "a query": url.QueryEscape(Secret), "a path": url.PathEscape(Secret),
		"%x": fmt.Sprintf("%x", "u:"+Secret), "lower case": "pl4nteds3cret", "bytes": fmt.Sprint([]byte("x" + Secret)), "twice quoted": fmt.Sprintf("%q", fmt.Sprintf("%q", Secret)),
		"base64, 0": base64.StdEncoding.EncodeToString([]byte(Secret)), "base64, 1": base64.URLEncoding.EncodeToString([]byte("u" + Secret)),
		"base64, 2": base64.RawStdEncoding.EncodeToString([]byte("u:" + Secret)), "base64, 3": base64.RawURLEncoding.EncodeToString([]byte("ab:" + Secret)),
	} {
		if Found(output) == "" {
			t.Errorf("%s: want it found in %s", name, output)
		}
	}
	for _, output := range []string{"", "***", "planted", base64.StdEncoding.EncodeToString([]byte("another text"))} {
		if found := Found(output); found != "" {
			t.Errorf("got %s in %q", found, output)
		}
	}
}

func TestIsSecretName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"REDIS_PASSWORD": true, "DATABASE_URL": true, "OPENAI_API_KEY": true, "CACHE_ADMIN_TOKEN": true, "CACHE_KEY_PREFIX": true, "REDIS_TLS_CERT": true,
		"CACHE_TIMEOUT": false, "CACHE_TTL_USER_CHATS": true, "LOG_LEVEL": false,
		"SentinelPassword": true, "TLSConfig": true, "URL": true, "APIKey": true, "apiKey": true, "adminToken": true, "BaseURL": true, "KeyPrefix": true,
		"Keyspaces": false, "Timeout": false, "MaxLoads": false, "MonkeyCount": false,
	} {
		if got := IsSecretName(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestFields(t *testing.T) {
	t.Parallel()
	type inner struct {
		Token []byte
		Count int
	}
	type outer struct {
		Name  string
		Hosts []string
		In    inner
		TLS   *tls.Config
		N     int
	}
	want := []string{"outer.Name", "outer.Hosts", "outer.In.Token", "outer.TLS"}
	if got := Fields(outer{}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
