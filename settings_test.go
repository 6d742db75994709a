package aside_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

// Each has a secret in it, which no error, no log and no shown setting has.
func TestSettings_ARefusedTextIsNotShown(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"REDIS_HOST=h:6380,password=hunter2=,ssl=True,abortConnect=False": "REDIS_PASSWORD",
		"REDIS_HOST=h:6380,password=hun/hunter2,ssl=True":                 "Azure",
		"REDIS_HOST=h,password=hunter2":                                   "Azure",
		"REDIS_HOST=redis://:hunter2@h:6379":                              "set REDIS_URL",
		"REDIS_HOST=redis://:hunter2@h:6379,i":                            "number 1 of 2",
		"REDIS_HOST=user:hunter2@h":                                       "REDIS_HOST: host:",
		"REDIS_HOST=h:hunter2":                                            "port from 1 to 65535",
		"REDIS_HOST=password=hunter2":                                     "REDIS_HOST: host:",
		"REDIS_HOST=[fe80::1%password=hunter2]":                           "REDIS_HOST: host:",
		"REDIS_HOST=h ssl hunter2":                                        "REDIS_HOST: host:",
		"REDIS_HOST=/run/hunter2.sock":                                    "unix:///",
		"REDIS_PORT=tcp://user:hunter2@10.0.0.1:6379":                     "enableServiceLinks: false",
		"REDIS_PORT=hunter2":                                              "a port from 1 to 65535",
		"REDIS_DB=hunter2":                                                "REDIS_DB",
		"REDIS_TLS=hunter2":                                               "REDIS_TLS",
		"CACHE_TIMEOUT=redis://:hunter2@h":                                "CACHE_TIMEOUT",
		"CACHE_TYPE=redis,password=hunter2":                               "CACHE_TYPE",
		"REDIS_SENTINEL_MASTER=redis://:hunter2@h":                        "REDIS_SENTINEL_MASTER",
		"REDIS_URL=h:6380,password=hunter2,ssl=True":                      "Azure",
		"REDIS_URL=redis://h:6380,password=hunter2,ssl=True":              "Azure",
		"REDIS_URL=h:hunter2":                                             "scheme",
		"REDIS_URL=hunter2://h":                                           "scheme",
		"REDIS_URL=hunter2@h":                                             "scheme",
		"REDIS_URL=:hunter2@h://x":                                        "scheme",
		"REDIS_URL=redis:hunter2:6379":                                    "scheme",
		`REDIS_URL="redis://:hunter2@h"`:                                  "quotes",
		"REDIS_URL=http://:hunter2@h":                                     "scheme",
		"REDIS_URL=redis+sentinel://:hunter2@h":                           "REDIS_SENTINEL_MASTER",
		"REDIS_URL=redis-sentinel://:hunter2@h/main":                      "REDIS_SENTINEL_MASTER",
		"REDIS_URL=rediss+cluster://:hunter2@h":                           "REDIS_TLS=true",
		"REDIS_URL=redis+cluster://:hunter2@h":                            "REDIS_CLUSTER=true",
		"REDIS_URL=redis+socket:///hunter2":                               "unix://",
		"REDIS_URL=redis+tls://:hunter2@h":                                "rediss://",
		"REDIS_URL=redis://:1234#hunter2@db.example.com:6379/0":           "%23",
		"REDIS_URL=redis://:1234/hunter2@db.example.com:6379/0":           "%2F",
		"REDIS_URL=redis://:1234?hunter2@db.example.com:6379/0":           "%3F",
		"REDIS_URL=redis://u:1234?hunter=hunter2@db.example.com:6379/0":   "%3F",
		"REDIS_URL=redis://:hunter2%zz@h:6379/0":                          "%25",
		"REDIS_URL=redis://:hunter2 x@h:6379/0":                           "white space",
		"REDIS_URL=redis://:hunter2@":                                     "host",
		"REDIS_URL=redis://:hunter2@:6379/0":                              "host: there is none",
		"REDIS_URL=redis://:@:6379/0?password=hunter2":                    "host: there is none",
		"REDIS_URL=redis://:hunter2@h1:6379,h2:6379":                      "set REDIS_HOST=h1:6379,h2:6379",
		"REDIS_URL=redis://:hunter2@::1:6379/0":                           "brackets",
		"REDIS_URL=redis://:hunter2@h!:6379/0":                            "host: want a name",
		"REDIS_URL=redis://:hunter2@h:port/0":                             "port: ",
		"REDIS_URL=redis://:hunter2@h:70000/0":                            "port: ",
		"REDIS_URL=redis://:hunter2@h:0/0":                                "port: ",
		"REDIS_URL=redis://:hunter2@h:/0":                                 "port: ",
		"REDIS_URL=redis://:hunter2@h:6379/-1":                            "database: ",
		"REDIS_URL=redis://:hunter2@h:6379/0/1":                           "database: ",
		"REDIS_URL=redis://:hunter2@h:6379/main":                          "database: ",
		"REDIS_URL=redis://:hunter2@h:6379/?db=-1":                        "parameter db",
		"REDIS_URL=redis://:hunter2@h:6379/0?db=1":                        "database: ",
		"REDIS_URL=redis://h?password=hunter2&pool_size=x":                "parameter pool_size",
		"REDIS_URL=redis://h?pool_size=-5&client_name=hunter2":            "parameter pool_size",
		"REDIS_URL=redis://h?pool_size=99999999999&client_name=hunter2":   "parameter pool_size",
		"REDIS_URL=redis://h?max_conns=hunter2":                           "parameter max_conns",
		"REDIS_URL=redis://h?read_timeout=hunter2":                        "parameter read_timeout",
		"REDIS_URL=redis://h?read_timeout=1&read_timeout=2&x=hunter2":     "parameter read_timeout",
		"REDIS_URL=redis://h?read_timeout=1&socket_timeout=hunter2":       "parameter socket_timeout",
		"REDIS_URL=rediss://h?ssl_cert_reqs=hunter2":                      "none (any certificate), optional or required",
		"REDIS_URL=rediss://h?ssl_ca_certs=/hunter2":                      "parameter ssl_ca_certs",
		"REDIS_URL=redis://:hunter2@h?skip_verify=true":                   "rediss://",
		"REDIS_URL=redis://:hunter2@h?a;b":                                "query",
		"REDIS_URL=redis://:hunter2@h?hunter2":                            "query",
		"REDIS_URL=redis://:hunter2@h?password=other":                     "parameter password",
		"REDIS_URL=unix://hunter2/path":                                   "path: ",
		"REDIS_URL=unix://:hunter2@":                                      "path: ",
		"REDIS_URL=unix:///path?hunter=hunter2":                           "parameter hunter:",
		"REDIS_URL=redis:///2":                                            "host: there is none",
		"REDIS_URL=redis://h/2 REDIS_CLUSTER=true":                        "database: want 0 with REDIS_CLUSTER",
		"REDIS_URL=unix:///s REDIS_TLS=true":                              "a socket has no TLS",
		"REDIS_URL=unix:///s REDIS_CLUSTER=true":                          "one server",
	} {
		env := map[string]string{"REDIS_PASSWORD": "hunter2"}
		name, value, _ := strings.Cut(text, "=")
		if i := strings.Index(value, " REDIS_"); i > 0 {
			other, v, _ := strings.Cut(value[i+1:], "=")
			env[other], value = v, value[:i]
		}
		env[name] = value
		cfg, err := fromEnv(env)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hunter2") ||
			!strings.Contains(err.Error(), "want ") && !strings.Contains(err.Error(), "accepted") && !strings.Contains(err.Error(), "set ") {
			t.Errorf("%s: want %q and no secret: %v", text, want, err)
		}
		switch name { // the same comes from Open
		case "REDIS_URL":
			cfg = aside.Config{Redis: aside.Redis{URL: value, Cluster: cfg.Redis.Cluster, TLS: cfg.Redis.TLS}}
		case "REDIS_HOST":
			cfg = aside.Config{Redis: aside.Redis{Hosts: strings.Split(value, ",")}}
		default:
			continue
		}
		c, opened := aside.Open(cfg)
		_, shown := cfg.InForce()
		if opened == nil || shown == nil || c != nil || strings.Contains(fmt.Sprint(opened, shown), "hunter2") {
			t.Errorf("Open with %s: %v, %v", text, opened, shown)
		}
	}
}

func TestInForce(t *testing.T) {
	t.Parallel()
	type redis = aside.Redis
	for text, want := range map[string]redis{
		"":                              {Hosts: []string{"localhost:6379"}, Port: 6379},
		"REDIS_PORT=7000":               {Hosts: []string{"localhost:7000"}, Port: 7000},
		"REDIS_HOST=h REDIS_DB=3":       {Hosts: []string{"h:6379"}, Port: 6379, DB: 3},
		"REDIS_HOST=h:7001":             {Hosts: []string{"h:7001"}, Port: 7001},
		"REDIS_HOST=h:06379":            {Hosts: []string{"h:6379"}, Port: 6379},
		"REDIS_HOST=my_redis":           {Hosts: []string{"my_redis:6379"}, Port: 6379},
		"REDIS_HOST=::1":                {Hosts: []string{"[::1]:6379"}, Port: 6379},
		"REDIS_HOST=[fe80::1%eth0]:1":   {Hosts: []string{"[fe80::1%eth0]:1"}, Port: 1},
		"REDIS_HOST=a,b:7 REDIS_PORT=8": {Hosts: []string{"a:8", "b:7"}, Port: 8, Cluster: true},
		"REDIS_HOST=a REDIS_SENTINEL_MASTER=\tm  REDIS_SENTINEL_USERNAME=\ts  REDIS_SENTINEL_PASSWORD=p": {
			Hosts: []string{"a:26379"}, Port: 26379, SentinelMaster: "m", SentinelUsername: "***", SentinelPassword: "***"},
		"REDIS_URL=redis://h REDIS_PORT=7000":                {Hosts: []string{"h:6379"}, Port: 6379},
		"REDIS_URL=redis://h REDIS_PORT=tcp://10.0.0.1:6379": {Hosts: []string{"h:6379"}, Port: 6379},
		"REDIS_HOST=h:1 REDIS_PORT=tcp://10.0.0.1:6379":      {Hosts: []string{"h:1"}, Port: 1},
		"REDIS_URL=REDISS://u:p%2F@h:06380/2":                {Hosts: []string{"h:6380"}, Port: 6380, DB: 2, TLS: true, Username: "***", Password: "***"},
		"REDIS_URL=redis://:p@ss^@h/0/":                      {Hosts: []string{"h:6379"}, Port: 6379, Password: "***"},
		"REDIS_URL=redis://[::1]/?db=2&password=p":           {Hosts: []string{"[::1]:6379"}, Port: 6379, DB: 2, Password: "***"},
		"REDIS_URL=redis://h REDIS_CLUSTER=true":             {Hosts: []string{"h:6379"}, Port: 6379, Cluster: true},
		"REDIS_URL=unix://:p@/run/redis.sock?db=1":           {Hosts: []string{"/run/redis.sock"}, DB: 1, Password: "***"},
		"REDIS_URL=redis://h REDIS_TLS=true":                 {Hosts: []string{"h:6379"}, Port: 6379, TLS: true},
	} {
		cfg, err := fromEnv(envOf(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := cfg.InForce()
		if diff := cmp.Diff(want, got.Redis); err != nil || diff != "" {
			t.Errorf("%s: %v, (-want +got)\n%s", text, err, diff)
		}
		c := must(aside.Open(cfg))
		c.Close()
	}
	got := must(aside.Config{}.InForce())
	if got.Timeout != 250*time.Millisecond || got.Type != "redis" {
		t.Errorf("without defaults: %+v", got)
	}
}

func envOf(text string) map[string]string {
	env := make(map[string]string)
	for _, part := range strings.Split(text, " REDIS_") {
		if name, value, ok := strings.Cut(part, "="); ok {
			if !strings.HasPrefix(name, "REDIS_") && !strings.HasPrefix(name, "CACHE_") {
				name = "REDIS_" + name
			}
			env[name] = value
		}
	}
	return env
}

func TestSettings_MisspeltVariablesAreReportedOnce(t *testing.T) {
	t.Parallel()
	for name, meant := range map[string]string{
		"CACHE_ENABLD": "CACHE_ENABLED", "CACHE_ENABLE": "CACHE_ENABLED", "cache_enabled": "CACHE_ENABLED", "CACHE_TTL_CHAT_MESSAGE": "CACHE_TTL_CHAT_MESSAGES",
		"CACHE_TTL_USERS_CHATS": "CACHE_TTL_USER_CHATS", "CACHE_TTL_GENERATIONS": "CACHE_TTL_GENERATION", "CACHE_TTL_JITER": "CACHE_TTL_JITTER",
		"CACHE_REFRESH_CHAT_MESSAGE": "CACHE_REFRESH_CHAT_MESSAGES", "CACHE_REFERSH_USER_CHATS": "CACHE_REFRESH_USER_CHATS", "CACHE_REFRESH_AFTER": "CACHE_REFRESH_<NAME>",
		"CACHE_TIME_OUT": "CACHE_TIMEOUT", "REDIS_HOTS": "REDIS_HOST", "REDIS_HOSTS": "REDIS_HOST", "REDIS_PASS": "REDIS_PASSWORD", "REDIS_USER": "REDIS_USERNAME",
		"REDIS_SSL": "REDIS_TLS", "REDIS_ULR": "REDIS_URL", "REDIS_PORT_NUMBER": "REDIS_PORT", "REDIS_SENTINEL_MASTER_NAME": "REDIS_SENTINEL_MASTER",
		"REDIS_SENTINELS": "REDIS_HOST", "REDIS_SENTINEL_HOSTS": "REDIS_HOST", "REDIS_SENTINEL_NODES": "REDIS_HOST", "REDIS_SENTINEL_PORT": "REDIS_PORT", "REDIS_CLUSTER_NODES": "REDIS_HOST",
		"REDIS_MASTER_NAME": "REDIS_SENTINEL_MASTER", "REDIS_SENTINEL_PASS": "REDIS_SENTINEL_PASSWORD",
		"CACHE_PREFIX": "CACHE_KEY_PREFIX", "CACHE_WHATEVER": "not a setting", "CACHE_SHARED_BY_NOBODY": "not a setting",
	} {
		var log bytes.Buffer
		cfg, err := fromEnv(map[string]string{name: "5", "CACHE_TYPE": "memory"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		c := must(aside.Open(cfg))
		c.Close()
		if strings.Count(log.String(), "level=WARN") != 1 || !strings.Contains(log.String(), name+" ") || !strings.Contains(log.String(), meant) {
			t.Errorf("%s: want a warning with %s:\n%s", name, meant, &log)
		}
	}
	cfg := must(fromEnv(map[string]string{
		"CACHE_TTL_CHANNEL": "60", "CACHE_TTL_USER": "60", "CACHE_TTL_SESSION": "60", "CACHE_REFRESH_SESSION": "30", "CACHE_REFRESH_CHANNEL": "30", "CACHE_ADMIN_TOKEN": "s3cret", "CACHE_ENABLD": " ",
		"REDIS_PORT_6379_TCP": "tcp://10.0.0.1:6379", "REDIS_PORT_6379_TCP_ADDR": "10.0.0.1", "REDIS_PORT_6379_TCP_PORT": "6379", "REDIS_PORT_6379_TCP_PROTO": "tcp",
		"REDIS_SERVICE_HOST": "10.0.0.1", "REDIS_SERVICE_PORT": "6379", "REDIS_SERVICE_PORT_TCP_REDIS": "6379", "REDIS_MASTER_PORT": "tcp://10.0.0.1:6379",
		"REDIS_MASTER_PORT_6379_TCP": "tcp://10.0.0.1:6379", "CACHE_SERVICE_HOST": "10.0.0.1", "CACHE_PORT": "tcp://10.0.0.1:80",
		"REDIS_MAX_CONNECTIONS": "5", "REDIS_SSL_CERT_REQS": "none", "REDIS_TLS_URL": "rediss://h", "CACHE_REDIS_URL": "redis://h", "CACHE_DEFAULT_TIMEOUT": "300",
		"CACHED": "1", "REDISHOST": "h", "PATH": "/bin", "CACHE_REDIS_HOST": "h", "REDIS_HOST": "h",
	}))
	if len(cfg.Warnings) > 0 {
		t.Errorf("others' variables are reported: %q", cfg.Warnings)
	}
}

// A setting that has no effect is told of once, by the name that the user has for it,
// and not at all where it says the same as the one that is used.
func TestSettings_NothingIsIgnoredInSilence(t *testing.T) {
	t.Parallel()
	const host, sentinels = " not used beside REDIS_URL", " not used without REDIS_SENTINEL_MASTER"
	for text, want := range map[string][]string{
		"REDIS_URL=redis://h?decode_responses=True&health_check_interval=30":            {"parameter decode_responses in", "parameter health_check_interval in"},
		"REDIS_URL=redis://:hunter2@h REDIS_HOST=other REDIS_DB=2":                      {"REDIS_HOST and REDIS_DB are" + host},
		"REDIS_URL=redis://h REDIS_DB=0":                                                {"REDIS_DB is" + host},
		"REDIS_URL=redis://h REDIS_DB=hunter2":                                          {"REDIS_DB is" + host},
		"REDIS_URL=redis://h REDIS_HOST=hunter2:x":                                      {"REDIS_HOST is" + host},
		"REDIS_URL=redis://h REDIS_HOST=/hunter2 REDIS_PORT=hunter2":                    {"REDIS_HOST and REDIS_PORT are" + host},
		"REDIS_URL=redis://h REDIS_PORT=tcp://10.0.0.1:6379":                            nil, // Kubernetes'
		"REDIS_URL=redis://u:p@h REDIS_USERNAME=hunter2 REDIS_PASSWORD=p":               {"REDIS_USERNAME is" + host},
		"REDIS_URL=redis://:p@h REDIS_USERNAME=hunter2":                                 {"REDIS_USERNAME is" + host},
		"REDIS_URL=redis://u:p@h REDIS_USERNAME=u REDIS_PASSWORD=hunter2":               {"REDIS_PASSWORD is" + host},
		"REDIS_URL=redis://u:p@h REDIS_USERNAME= u REDIS_PASSWORD=p":                    nil,
		"REDIS_URL=redis://h REDIS_USERNAME=u REDIS_PASSWORD=p":                         nil,
		"REDIS_URL=redis://default@h REDIS_USERNAME=u REDIS_PASSWORD=p":                 nil,
		"REDIS_URL=rediss://h REDIS_TLS=false":                                          {"REDIS_TLS is" + host},
		"REDIS_URL=redis://h REDIS_TLS=false":                                           nil,
		"REDIS_URL=rediss://h REDIS_TLS=true":                                           nil,
		"REDIS_URL=redis://h REDIS_TLS=true":                                            nil,
		"REDIS_HOST=h REDIS_SENTINEL_PASSWORD=hunter2":                                  {"REDIS_SENTINEL_PASSWORD is" + sentinels},
		"REDIS_URL=redis://h REDIS_SENTINEL_USERNAME=u REDIS_SENTINEL_PASSWORD=hunter2": {"REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD are" + sentinels},
		"REDIS_HOST=a:1,b:2 REDIS_PORT=7000":                                            {"REDIS_PORT is not used beside REDIS_HOST"},
		"REDIS_HOST=a:1,b REDIS_PORT=7000":                                              nil,
		"REDIS_HOST=a,b REDIS_CLUSTER=false":                                            {"REDIS_CLUSTER is not used beside REDIS_HOST"},
		"REDIS_HOST=a,b REDIS_CLUSTER=true":                                             nil,
		"REDIS_HOST=a,b REDIS_SENTINEL_MASTER=m REDIS_CLUSTER=false":                    nil,
	} {
		var log bytes.Buffer
		cfg, err := fromEnv(envOf(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c := must(aside.Open(cfg))
		c.Close()
		for _, want := range want {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("%s: want %q once in the log:\n%s", text, want, &log)
			}
		}
		if strings.Count(log.String(), "\n") != len(want) || strings.Contains(log.String(), "hunter2") || strings.Contains(log.String(), "Config.") {
			t.Errorf("%s: want %d lines with the variables' names and no secret:\n%s", text, len(want), &log)
		}
	}
	var log bytes.Buffer
	c := must(aside.Open(aside.Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), Redis: aside.Redis{URL: "redis://h", Hosts: []string{"i"}, DB: -1, Port: -1}}))
	c.Close()
	if !strings.Contains(log.String(), "Config.Redis.Hosts, Config.Redis.Port and Config.Redis.DB are not used beside Config.Redis.URL") {
		t.Errorf("want the fields' names:\n%s", &log)
	}
}

// The settings of a Redis are not looked at where there is none.
func TestSettings_ARedisThatIsNotUsed(t *testing.T) {
	t.Parallel()
	for _, cache := range []string{"CACHE_TYPE=memory", "CACHE_TYPE=none", "CACHE_ENABLED=false"} {
		env := map[string]string{
			"REDIS_PORT": "tcp://10.0.0.1:6379", "REDIS_DB": "x", "REDIS_TLS": "x", "REDIS_CLUSTER": "x", "REDIS_WAIT_REPLICAS": "x", "REDIS_HOST": "/", "REDIS_URL": "x",
			"REDIS_USERNAME": "u", "REDIS_SENTINEL_MASTER": "/", "REDIS_SENTINEL_USERNAME": "${NAME}", "CACHE_REDIS_URL": "redis://h",
		}
		name, value, _ := strings.Cut(cache, "=")
		env[name] = value
		cfg, err := fromEnv(env)
		if err != nil || len(cfg.Warnings) > 0 || !reflect.ValueOf(cfg.Redis).IsZero() {
			t.Errorf("%s: %+v, %q, %v; want nothing of Redis", cache, cfg.Redis, cfg.Warnings, err)
		}
	}
	cfg := aside.Config{Type: "memory", Redis: aside.Redis{URL: "x"}}
	c := must(aside.Open(cfg))
	c.Close()
	if got, err := cfg.InForce(); err != nil || !reflect.ValueOf(got.Redis).IsZero() {
		t.Errorf("%+v, %v; want no Redis in force", got.Redis, err)
	}
}

// The address of a Redis under another program's name is told of where there is none
// under ours, and the cache would be on localhost.
func TestSettings_AnotherProgramsRedis(t *testing.T) {
	t.Parallel()
	for variable, meant := range map[string]string{
		"CACHE_URL=redis://:hunter2@h": "REDIS_URL", "CACHE_REDIS_URL=rediss://h": "REDIS_URL", "REDIS_TLS_URL=rediss://h": "REDIS_URL", "REDIS_CACHE_URL=unix:///s": "REDIS_URL",
		"CACHE_LOCATION=redis://h": "REDIS_URL", "CACHE_REDIS_HOST=h": "REDIS_HOST",
		"CACHE_URL=https://h": "", "CACHE_REDIS_PASSWORD=x": "", "CACHE_REDIS_HOST=": "", "REDIS_SERVICE_HOST=10.0.0.1": "",
	} {
		name, _, _ := strings.Cut(variable, "=")
		cfg := must(aside.ConfigFromEnv([]string{variable}))
		if got := fmt.Sprint(cfg.Warnings); meant == "" && len(cfg.Warnings) > 0 || meant != "" && (len(cfg.Warnings) != 1 || !strings.Contains(got, name+" is not") || !strings.Contains(got, meant+" was probably meant")) || strings.Contains(got, "hunter2") {
			t.Errorf("%s: got %q, want %q", variable, cfg.Warnings, meant)
		}
		for _, set := range []string{"REDIS_URL=redis://i", "REDIS_HOST=i", "CACHE_TYPE=memory"} {
			if cfg := must(aside.ConfigFromEnv([]string{variable, set})); len(cfg.Warnings) > 0 {
				t.Errorf("%s beside %s: got %q", variable, set, cfg.Warnings)
			}
		}
	}
}

// A number without a unit is seconds, which hardly anybody means by 250.
func TestSettings_ATimeoutThatWasMeantInMilliseconds(t *testing.T) {
	t.Parallel()
	for text, warns := range map[string]bool{"250": true, "10.5": true, "10": false, "0.25": false, "250ms": false, "60s": false, "1m": false} {
		cfg := must(fromEnv(map[string]string{"CACHE_TIMEOUT": text}))
		if got := len(cfg.Warnings) == 1 && strings.Contains(cfg.Warnings[0], "250ms"); got != warns || len(cfg.Warnings) > 1 {
			t.Errorf("CACHE_TIMEOUT=%s: %q", text, cfg.Warnings)
		}
	}
}

// The forms of a URL reach the server that they name, as the user and in the database.
func TestSettings_URLsReachTheirServer(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	r.SetUser("app", "on", ">p/?#@%x", "~*", "&*", "+@all")
	for i, url := range []string{
		"redis://app:p%2F%3F%23%40%25x@" + r.Addr + "/1?client_name=x&pool_size=3",
		"REDIS://app@" + r.Addr + "/?db=1&password=p%2F%3F%23%40%25x&socket_timeout=5.5&socket_keepalive=true",
		"redis://app:p%2F%3F%23@%25x@" + r.Addr + "/1",
	} {
		c := must(aside.Open(aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{URL: url}}))
		defer c.Close()
		if err := c.Set(t.Context(), fmt.Sprint("s:", i), []byte("v"), time.Minute); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		if s, err := c.Status(t.Context()); err != nil || s.Keys != int64(i+1) {
			t.Errorf("%s: %d keys, %v", url, s.Keys, err)
		}
	}
}

func TestSettings_ATLSConfigIsNotModified(t *testing.T) {
	t.Parallel()
	own := &tls.Config{}
	c := must(aside.Open(aside.Config{Redis: aside.Redis{URL: "rediss://h?skip_verify=true", TLSConfig: own}}))
	c.Close()
	if own.InsecureSkipVerify || own.ServerName != "" {
		t.Error("the caller's TLSConfig was modified")
	}
}
