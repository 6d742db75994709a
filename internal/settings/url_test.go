package settings

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

func field(name string) string { return name }

// Each value of a parameter that go-redis accepts is accepted here.
func TestURLParams_AreThoseOfGoRedis(t *testing.T) {
	t.Parallel()
	for key := range urlParams {
		for _, value := range []string{"1", "2", "true", "1s"} {
			text := "rediss://h?" + key + "=" + value
			if _, err := redis.ParseURL(text); err != nil || key == "protocol" && value == "1" { // which go-redis takes for 3
				continue
			}
			if _, err := ParseURL(text, field); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]URL{
		"redis://h":                             {Addr: "h:6379", Host: "h"},
		"redis://h.":                            {Addr: "h.:6379", Host: "h."},
		"REDISS://u:p@h:1/2":                    {Addr: "h:1", Host: "h", DB: 2, Username: "u", Password: "p", TLS: true},
		"redis://a@b:c@h":                       {Addr: "h:6379", Host: "h", Username: "a@b", Password: "c"},
		"redis://%41:%3A:@h":                    {Addr: "h:6379", Host: "h", Username: "A", Password: "::"},
		"redis://h/2?db=2":                      {Addr: "h:6379", Host: "h", DB: 2},
		"redis://h/?username=u&password=%25%2B": {Addr: "h:6379", Host: "h", Username: "u", Password: "%+"},
		"redis://u:p@h?password=p":              {Addr: "h:6379", Host: "h", Username: "u", Password: "p"},
		"redis://h?password=":                   {Addr: "h:6379", Host: "h"},
		"redis://[::1]:7":                       {Addr: "[::1]:7", Host: "::1"},
		"redis://[fe80::1%25eth0]":              {Addr: "[fe80::1%eth0]:6379", Host: "fe80::1%eth0"},
		"unix:///a%20b?db=3":                    {Addr: "/a b", DB: 3},
		"unix://u:p@/s":                         {Addr: "/s", Username: "u", Password: "p"},
	} {
		got, err := ParseURL(text, field)
		if err != nil || got.Addr != want.Addr || got.Host != want.Host || got.DB != want.DB || got.Username != want.Username || got.Password != want.Password || got.TLS != want.TLS {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
}

// An error names the part that is wrong, and is true of each text that causes it.
func TestParseURL_Errors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"tcp://h:6379":              "scheme: want redis://, rediss:// (TLS) or unix://",
		"valkey://h":                "scheme: want redis://, rediss:// (TLS) or unix://",
		"http://h":                  "scheme: want redis://, rediss:// (TLS) or unix://",
		"valkeys://h":               "scheme: want rediss:// for TLS",
		"'redis://h'":               "scheme: want redis://, rediss:// (TLS) or unix://, without quotes around the URL",
		"://h":                      "scheme: want redis://, rediss:// (TLS) or unix://",
		"sentinel://h/m":            "scheme: a URL names one server; for Sentinels set Hosts=h1:26379,h2:26379 (the Sentinels), SentinelMaster=<name of the master> and Password instead",
		"rediss+sentinel://h/m":     "scheme: a URL names one server; for Sentinels set Hosts=h1:26379,h2:26379 (the Sentinels), SentinelMaster=<name of the master>, TLS=true and Password instead",
		"rediss+cluster://h":        "scheme: a URL names one server; for a Cluster set Cluster=true beside the redis:// or rediss:// URL of one of its hosts, or Hosts=h1:6379,h2:6379, TLS=true and Password instead",
		"redis://h?ssl=true":        "parameter ssl: want rediss:// instead of redis:// for TLS, and no parameter",
		"rediss://h?tls=true":       "parameter tls: want rediss:// instead of redis:// for TLS, and no parameter",
		"redis://h?max_retries=101": "parameter max_retries: want a whole number from -1 to 100, 0 for none",
		"redis://h..x":              errHost.Error(),
		"redis://10.0.0.1.5":        errHost.Error(),
		"redis://u@@h":              "",
	} {
		if _, err := ParseURL(text, field); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s:\n %v; want\n %s", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"redis://h?pool_size=1&max_connections=2": "parameter pool_size: it means the same as another (max_connections)",
		"redis://h?db=1&db=1":                     "parameter db: it means the same as another (db)",
		"rediss://h?ssl_certfile=x":               "parameter ssl_certfile: it cannot be set in a URL; set Config.Redis.TLSConfig",
		"redis://h?pool_timeout=0":                "parameter pool_timeout: want seconds (3) or a duration (500ms), from 1ms",
		"redis://h?protocol=1":                    "parameter protocol: want a whole number from 2 to 3",
		"redis://h?client_name=a%20b":             "parameter client_name: want up to 100",
		"redis://h?client_name=%7F":               "parameter client_name: want up to 100",
		"redis://h?pool_fifo=2":                   "parameter pool_fifo: want true or false",
		"redis://h?pool_size=10001":               "parameter pool_size: want a whole number",
		"redis://h?pipeline_read_buffer_size=-1":  "parameter pipeline_read_buffer_size: want a whole number",
		"redis://h?read_timeout=9000h":            "parameter read_timeout: want seconds (3)",
		"redis://h?db=+1":                         "parameter db: want a whole number from 0",
		"redis://u:p@h?username=v":                "parameter username: want a name",
		"redis://h!:x":                            "host: want a name",
		"redis://h\x00i":                          "white space",
		"h:1,password=a://b,ssl=True":             "it is a connection string",
		"valkeys+sentinel://h":                    "scheme: a URL names one server; for Sentinels set Hosts=h1:26379,h2:26379 (the Sentinels), SentinelMaster=<name of the master>, TLS=true",
		"redis://h/+1":                            "database: ",
		"redis://h:+1":                            "port: ",
		"redis://h:00000006379":                   "port: ",
		"redis://[h]":                             "host: want a name",
		"redis://[::1":                            "host: ",
		"redis://[1.2.3.4]":                       "host: want a name",
		"redis://%68":                             "host: want a name",
		"unix:///":                                "path: ",
		"unix:///a%00b":                           "path: ",
		"redis://h\u00a0i":                        "white space",
		"redis://h\ufffd":                         "white space",
	} {
		if _, err := ParseURL(text, field); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v; want %s", text, err, want)
		}
	}
}

func TestParseURL_Options(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]redis.UniversalOptions{
		"max_retries=0":     {MaxRetries: -1},
		"max_retries=-1":    {MaxRetries: -1},
		"max_retries=2":     {MaxRetries: 2},
		"max_connections=5": {PoolSize: 5},
		"socket_timeout=0":  {ReadTimeout: -1, WriteTimeout: -1},
		"idle_timeout=1":    {ConnMaxIdleTime: 1e9},
		"max_conn_age=2":    {ConnMaxLifetime: 2e9},
		"conn_max_lifetime=2&conn_max_lifetime_jitter=1":    {ConnMaxLifetime: 2e9, ConnMaxLifetimeJitter: 1e9},
		"conn_max_lifetime=2s&conn_max_lifetime_jitter=3s":  {ConnMaxLifetime: 2e9, ConnMaxLifetimeJitter: 2e9}, // go-redis panics on more
		"conn_max_lifetime=-1&conn_max_lifetime_jitter=3":   {ConnMaxLifetime: -1},
		"min_retry_backoff=1ms&max_retry_backoff=2ms":       {MinRetryBackoff: 1e6, MaxRetryBackoff: 2e6},
		"min_idle_conns=1&max_idle_conns=2":                 {MinIdleConns: 1, MaxIdleConns: 2},
		"max_active_conns=3&max_concurrent_dials=4":         {MaxActiveConns: 3, MaxConcurrentDials: 4},
		"pool_fifo=yes&pool_timeout=1.5":                    {PoolFIFO: true, PoolTimeout: 15e8},
		"pipeline_pool_size=1&pipeline_read_buffer_size=2":  {PipelinePoolSize: 1, PipelineReadBufferSize: 2},
		"pipeline_write_buffer_size=3&read_timeout=&db=":    {PipelineWriteBufferSize: 3},
		"decode_responses=x&health_check_interval=1&db=0":   {},
		"dial_timeout=1&client_name=a&protocol=3&encoding=": {DialTimeout: 1e9, ClientName: "a", Protocol: 3},
	} {
		u, err := ParseURL("redis://h?"+text, field)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		q := u.Query
		if q.MaxRetries != want.MaxRetries || q.PoolSize != want.PoolSize || q.ReadTimeout != want.ReadTimeout || q.WriteTimeout != want.WriteTimeout ||
			q.ConnMaxIdleTime != want.ConnMaxIdleTime || q.ConnMaxLifetime != want.ConnMaxLifetime || q.ConnMaxLifetimeJitter != want.ConnMaxLifetimeJitter ||
			q.MinRetryBackoff != want.MinRetryBackoff || q.MaxRetryBackoff != want.MaxRetryBackoff || q.MinIdleConns != want.MinIdleConns || q.MaxIdleConns != want.MaxIdleConns ||
			q.MaxActiveConns != want.MaxActiveConns || q.MaxConcurrentDials != want.MaxConcurrentDials || q.PoolFIFO != want.PoolFIFO || q.PoolTimeout != want.PoolTimeout ||
			q.PipelinePoolSize != want.PipelinePoolSize || q.PipelineReadBufferSize != want.PipelineReadBufferSize || q.PipelineWriteBufferSize != want.PipelineWriteBufferSize ||
			q.DialTimeout != want.DialTimeout || q.ClientName != want.ClientName || q.Protocol != want.Protocol {
			t.Errorf("%s: got %+v", text, q)
		}
	}
}

func TestSplitHost(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"h": true, "h.": true, "a.b-c_d": true, "1": true, "1.redis": true, "r1.2x": true, "10.0.0.1": true, "10.0.0.1:1": true, "_h": true, "::1": true, "[::1]:1": true, "[fe80::1%eth0]": true,
		strings.Repeat("h", 253): true,
		"":                       false, "-h": false, ".h": false, "h..x": false, "h..": false, "10.0.0.1.5": false, "10.0.0.256": false, "10.0.0": false, "10.0.0.01": false, "h.1": false,
		"h:0": false, "h:65536": false, "h:": false, "h!": false, "한": false, "[h]": false, "[::1": false, "[10.0.0.1]": false, "fe80::1%": false, "fe80::1%a/b": false, "::1::2": false,
		strings.Repeat("h", 254): false,
	} {
		if _, _, err := SplitHost(text); (err == nil) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A server whose certificate is for another host is accepted with ssl_check_hostname=false,
// if the certificate's chain is; with ssl_cert_reqs=none, any is.
func TestSecure(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	own, none := filepath.Join(dir, "hunter2.pem"), filepath.Join(dir, "no-hunter2.pem")
	if err := os.WriteFile(own, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	dial := func(query, name string, c *tls.Config) error {
		u, err := ParseURL("rediss://h?"+query, field)
		if err != nil {
			return err
		}
		c.ServerName = name
		u.Secure(c)
		conn, err := tls.Dial("tcp", server.Listener.Addr().String(), c)
		if err == nil {
			conn.Close()
		}
		return err
	}
	for _, c := range []struct {
		query, name string
		ok          bool
	}{
		{"ssl_ca_certs=" + own, "example.com", true},
		{"ssl_ca_certs=" + own, "other.test", false},
		{"ssl_check_hostname=true&ssl_ca_certs=" + own, "other.test", false},
		{"ssl_check_hostname=false&ssl_ca_certs=" + own, "other.test", true},
		{"ssl_check_hostname=false", "other.test", false}, // signed by none of the system's authorities
		{"ssl_check_hostname=false", "example.com", false},
		{"ssl_cert_reqs=none", "other.test", true},
		{"ssl_cert_reqs=none&ssl_check_hostname=false", "other.test", true},
		{"ssl_cert_reqs=none&ssl_check_hostname=true", "other.test", true},
		{"ssl_cert_reqs=required&ssl_check_hostname=false", "other.test", false},
		{"skip_verify=true", "other.test", true},
		{"skip_verify=false", "other.test", false},
	} {
		if err := dial(c.query, c.name, &tls.Config{}); (err == nil) != c.ok {
			t.Errorf("%s to %s: %v", c.query, c.name, err)
		}
	}
	refuses := &tls.Config{VerifyConnection: func(tls.ConnectionState) error { return net.ErrClosed }}
	if err := dial("ssl_check_hostname=false&ssl_ca_certs="+own, "other.test", refuses); err == nil {
		t.Error("a VerifyConnection of the caller's is not called")
	}
	garbage := filepath.Join(dir, "hunter2.txt")
	if err := os.WriteFile(garbage, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{none: "no such file", own + "/x": "cannot be read", garbage: "no PEM certificate", dir: "not a regular file"} {
		if _, err := ParseURL("rediss://h?ssl_ca_certs="+path, field); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "parameter ssl_ca_certs: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v; want %q", err, want)
		}
	}
	for _, param := range []string{"skip_verify=true", "ssl_cert_reqs=none", "ssl_check_hostname=false", "ssl_ca_certs=" + own} {
		if u, err := ParseURL("redis://h?"+param, field); err != nil || u.NeedsTLS == "" {
			t.Errorf("%s: %v; want it to need TLS", param, err)
		}
	}
}
