package aside_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
	"github.com/cacheaside/aside/internal/secrettest"
)

const marker = secrettest.Secret

// secretFields are the fields of Config in which the tests plant a secret.
var secretFields = map[string]string{
	"Config.Redis.URL": "redis://u:" + secrettest.InURL + "@127.0.0.1:1", "Config.Redis.Username": marker, "Config.Redis.Password": marker,
	"Config.Redis.SentinelUsername": marker, "Config.Redis.SentinelPassword": marker, "Config.Redis.TLSConfig": "its certificate's key",
	// Where something else was pasted:
	"Config.Redis.Hosts": "h:6380,password=" + marker, "Config.Redis.SentinelMaster": "redis://:" + marker + "@h", "Config.Type": "redis://:" + marker + "@h",
}

var harmlessFields = map[string]string{
	"Config.KeyPrefix": "it stands in front of keys, which logs and MONITOR show",
	"Config.Redis.TLS": "a bool",
	"Config.Warnings":  "text that is written to be logged",
}

// secretVars are the variables that hold a secret, with one in it.
var secretVars = map[string]string{
	"REDIS_URL": "redis://u:" + secrettest.InURL + "@127.0.0.1:1", "REDIS_USERNAME": marker, "REDIS_PASSWORD": marker,
	"REDIS_SENTINEL_USERNAME": marker, "REDIS_SENTINEL_PASSWORD": marker,
}

var harmlessVars = map[string]string{
	"CACHE_KEY_PREFIX": "see Config.KeyPrefix", "REDIS_TLS": "true or false",
}

// A setting that looks as if it were secret is in one of the lists above: a new one is
// planted by the tests below, or said to be harmless.
func TestSecrets_EverySettingIsKnown(t *testing.T) {
	t.Parallel()
	secrettest.Classified(t, secrettest.Fields(aside.Config{}), secretFields, harmlessFields)
	var names []string
	for _, name := range variables(t) {
		if secrettest.IsSecretName(name) && !strings.HasSuffix(name, "_") {
			names = append(names, name)
		}
	}
	secrettest.Classified(t, names, secretVars, harmlessVars)
}

// variables returns the names that ConfigFromEnv reads, and the prefixes of those of
// keyspaces.
func variables(t *testing.T) (names []string) {
	t.Helper()
	for _, name := range secrettest.Variables(t, "config_env.go") {
		if strings.HasPrefix(name, "CACHE_") && name != "CACHE_" || strings.HasPrefix(name, "REDIS_") && name != "REDIS_" {
			names = append(names, name)
		}
	}
	if len(names) < 25 {
		t.Fatalf("got only %v from config_env.go", names)
	}
	return names
}

// planted returns a Config with a secret in each field of secretFields.
func planted(t *testing.T) aside.Config {
	t.Helper()
	var cfg aside.Config
	for path, text := range secretFields {
		field := reflect.ValueOf(&cfg).Elem()
		for name := range strings.SplitSeq(strings.TrimPrefix(path, "Config."), ".") {
			field = field.FieldByName(name)
		}
		switch field.Interface().(type) {
		case string:
			field.SetString(text)
		case []string:
			field.Set(reflect.ValueOf([]string{text}))
		case *tls.Config:
			field.Set(reflect.ValueOf(&tls.Config{Certificates: []tls.Certificate{{PrivateKey: marker, Certificate: [][]byte{[]byte(marker)}}}}))
		default:
			t.Fatalf("%s: no secret can be planted in a %s", path, field.Type())
		}
	}
	cfg.Redis.Hosts = append(cfg.Redis.Hosts, "user:"+marker+"@h", "h")
	return cfg
}

// A Config may be printed, as in the log of a start, by itself or in a struct.
func TestSecrets_PrintedConfig(t *testing.T) {
	t.Parallel()
	cfg := planted(t)
	cfg.Type = "" // the wrong texts are in the errors below
	cfg.Hooks = []hook.Hooks{{Read: func(context.Context, hook.Read) {}}}
	type service struct {
		Name  string
		Cache aside.Config
		Redis *aside.Redis
	}
	valid := cfg
	valid.Redis.URL, valid.Redis.Hosts, valid.Redis.SentinelMaster = "", []string{"a", "b"}, "m"
	inForce := must(valid.InForce())
	overURL := must(aside.Config{Redis: aside.Redis{URL: secretFields["Config.Redis.URL"]}}.InForce())
	fromVars := must(fromEnv(map[string]string{"REDIS_URL": secretVars["REDIS_URL"]}))
	for name, v := range map[string]any{
		"Config": cfg, "*Config": &cfg, "Redis": cfg.Redis, "*Redis": &cfg.Redis, "a struct": service{"s", cfg, &cfg.Redis}, "a map": map[string]any{"c": cfg, "r": cfg.Redis}, "a list": []aside.Redis{cfg.Redis},
		"InForce": inForce, "InForce of a URL": overURL, "ConfigFromEnv": fromVars,
	} {
		secrettest.Check(t, name, secrettest.Printed(v))
		data, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%s as JSON: %v", name, err)
		}
		secrettest.Check(t, name+" as JSON", fmt.Sprint(string(data), err))
		var log bytes.Buffer
		for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(handler).With("with", v).Info("begins", "config", v, slog.Group("g", "config", v))
		}
		secrettest.Check(t, name+" in a log", log.String())
	}
	if text := fmt.Sprintf("%+v", valid.Redis); !strings.Contains(text, "Hosts:[a b]") || !strings.Contains(text, "Password:***") || !strings.Contains(text, "SentinelMaster:m") {
		t.Errorf("got %s, want all but the secrets", text)
	}
	if text := fmt.Sprintf("%+v", aside.Redis{}); strings.Contains(text, "***") {
		t.Errorf("got %s, want no secret shown where there is none", text)
	}
}

// Each wrong value of a variable or field has a secret in it, as when a line of a .env file
// slips. What comes of it shows none.
func TestSecrets_WrongValues(t *testing.T) {
	t.Parallel()
	texts := []string{
		marker, "5 " + marker, "s3cret=" + marker, "redis://u:" + marker + "@h:1", "redis://u:" + secrettest.InURL + "@h:1", "redis://u:" + secrettest.InURL + "@h:x", "redis://u@h/?password=" + secrettest.InURL + "&x=1",
		"redis://" + url.PathEscape(marker) + "@h", "h:1,password=" + marker + ",ssl=True", "u:" + marker + "@h", "h:" + marker, "[" + marker, "/" + marker, marker + "://h", "${" + marker + "}", `"` + marker + `"`, "tcp://u:" + marker + "@10.0.0.1:1",
	}
	// Accepted as they are, and meant to be seen; the texts of errors are searched all the same.
	isName := map[string]bool{"CACHE_KEY_PREFIX": true, "REDIS_HOST": true, "REDIS_SENTINEL_MASTER": true}
	for _, name := range variables(t) {
		if strings.HasSuffix(name, "_") {
			name += "X"
		}
		for _, text := range texts {
			env := map[string]string{"REDIS_PASSWORD": marker, "REDIS_USERNAME": marker, "REDIS_SENTINEL_PASSWORD": marker, "CACHE_REDIS_URL": secretVars["REDIS_URL"], "REDIS_PASSWORDS": marker}
			env[name] = text
			where := fmt.Sprintf("%s=%s", name, text)
			cfg, err := fromEnv(env)
			secrettest.Check(t, where, fmt.Sprint(err, cfg.Warnings))
			if !isName[name] {
				secrettest.Check(t, where+": the Config", secrettest.Printed(cfg))
			}
			if err == nil {
				saysNothing(t, where, cfg)
			}
		}
	}
	for path, text := range secretFields {
		for _, text := range append(texts, text) {
			cfg := aside.Config{Redis: aside.Redis{Password: marker}}
			field := reflect.ValueOf(&cfg).Elem()
			for name := range strings.SplitSeq(strings.TrimPrefix(path, "Config."), ".") {
				field = field.FieldByName(name)
			}
			switch field.Interface().(type) {
			case string:
				field.SetString(text)
			case []string:
				field.Set(reflect.ValueOf([]string{text}))
			default:
				continue // it has no wrong values
			}
			saysNothing(t, path+" "+text, cfg)
		}
	}
	if _, err := aside.NewRedis(nil, planted(t)); err == nil {
		t.Error("want an error for no client")
	} else {
		secrettest.Check(t, "NewRedis", err.Error())
	}
	_, err := aside.ConfigFromEnv([]string{marker, "A" + marker})
	secrettest.Check(t, "no variable", fmt.Sprint(err))
}

// saysNothing opens a cache that is not used, and searches what is said of it.
func saysNothing(t *testing.T, where string, cfg aside.Config) {
	t.Helper()
	log := new(logtest.Buffer)
	cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c, err := aside.Open(cfg)
	if err == nil {
		err = c.Close()
	}
	_, inForce := cfg.InForce()
	secrettest.Check(t, where+": Open", fmt.Sprint(err, inForce, log))
}

// clientLog is where go-redis logs during all tests. It keeps the lines with a secret.
type clientLog struct {
	mu    sync.Mutex
	lines []string
	n     int
}

func (l *clientLog) Printf(_ context.Context, format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	if found := secrettest.Found(line); found != "" {
		l.lines = append(l.lines, found)
	}
}

// used calls all that may say something of a cache's trouble, and returns what was said.
func used(t *testing.T, cfg aside.Config, open func(aside.Config) (aside.Cache, error)) string {
	t.Helper()
	log := new(logtest.Buffer)
	cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Timeout, cfg.NearMaxBytes = 3*time.Second, 1<<20 // no answer in time is trouble as well
	c, err := open(cfg)
	if err != nil {
		return err.Error()
	}
	ctx := t.Context()
	var said strings.Builder
	say := func(err error) {
		for ; err != nil; err = errors.Unwrap(err) {
			fmt.Fprintln(&said, secrettest.Printed(err))
			var reply redis.Error
			if errors.As(err, &reply) {
				fmt.Fprintln(&said, secrettest.Printed(reply))
			}
		}
	}
	calls := func() {
		for i := range 4 {
			_, err := aside.GetOrLoad(ctx, c, aside.ChatMessages(fmt.Sprint(i)), func(context.Context) (string, error) { return "v", nil })
			say(err)
		}
		_, _, err := c.Get(ctx, "k")
		say(err)
		say(c.Set(ctx, "k", []byte("v"), time.Minute))
		say(c.Delete(ctx, "k"))
		say(c.Clear(ctx))
		say(aside.Update(ctx, c, func(context.Context) error { return nil }, room))
		say(aside.Invalidate(ctx, c, room))
		s, err := c.Status(ctx)
		fmt.Fprintf(&said, "%+v\n", s)
		say(err)
		generations, err := aside.NewGenerations(c)
		say(err)
		gen, err := generations.Start(ctx, "A")
		say(err)
		if err == nil {
			gen.Finish()
		}
		say(generations.Cancel(ctx, "A"))
		func() {
			defer func() { fmt.Fprintf(&said, "%v\n", recover()) }()
			_, _ = aside.GetOrLoad(ctx, c, aside.ChatMessages("panics"), func(context.Context) (string, error) { panic("a loader's own words") })
		}()
	}
	calls()
	if !cfg.Redis.Cluster && cfg.Redis.SentinelMaster == "" { // otherwise there is no node to listen to
		redistest.Eventually(t, "the near cache says that it is not used", func() bool { return strings.Contains(log.String(), "near cache disabled") })
	}
	calls() // with the breaker open
	say(c.Close())
	return said.String() + log.String()
}

// Old servers and proxies repeat what they were sent, a password too.
func TestSecrets_ServersThatRepeatWhatTheyWereSent(t *testing.T) {
	t.Parallel()
	t.Cleanup(func() { // when all have ended
		ofClients.mu.Lock()
		defer ofClients.mu.Unlock()
		t.Logf("go-redis logged %d lines", ofClients.n)
		for _, line := range ofClients.lines {
			if !strings.Contains(line, "sentinel") { // go-redis logs what these reply, and only redis.SetLogger changes that
				t.Errorf("go-redis's log: %s", line)
			}
		}
	})
	any := func(string) bool { return true }
	begins := func(command string) bool { return command == "hello" || command == "auth" }
	user, password := "the-user-"+marker, marker
	for _, text := range []string{
		"ERR unknown command 'AUTH', with args beginning with: '%s' ",
		"ERR unknown command `AUTH`, with args beginning with: `%s`, ",
		"ERR invalid password '%s'", "ERR wrong number of arguments: '%s'", "WRONGPASS '%s' is not right", "NOAUTH '%s'", "NOPERM User '%s' has no permissions", "MOVED 1 '%s'", "LOADING %s", "%s", "NOSCRIPT %s",
		"ERR unknown command " + strconv.Quote(marker), "ERR " + secrettest.InURL,
	} {
		for when, answers := range map[string]func(string) bool{"to all": any, "to AUTH": begins} {
			for how, open := range map[string]func(addr string) (aside.Config, func(aside.Config) (aside.Cache, error)){
				"Open": func(addr string) (aside.Config, func(aside.Config) (aside.Cache, error)) {
					return aside.Config{Redis: aside.Redis{Hosts: []string{addr}, Username: user, Password: password}}, aside.Open
				},
				"a URL": func(addr string) (aside.Config, func(aside.Config) (aside.Cache, error)) {
					return aside.Config{Redis: aside.Redis{URL: "redis://" + url.QueryEscape(user) + ":" + secrettest.InURL + "@" + addr}}, aside.Open
				},
				"a Cluster": func(addr string) (aside.Config, func(aside.Config) (aside.Cache, error)) {
					return aside.Config{Redis: aside.Redis{Hosts: []string{addr}, Cluster: true, Username: user, Password: password}}, aside.Open
				},
				"Sentinels": func(addr string) (aside.Config, func(aside.Config) (aside.Cache, error)) {
					return aside.Config{Redis: aside.Redis{Hosts: []string{addr}, SentinelMaster: "m", SentinelUsername: user, SentinelPassword: password}}, aside.Open
				},
				"NewRedis": func(addr string) (aside.Config, func(aside.Config) (aside.Cache, error)) {
					return aside.Config{}, func(cfg aside.Config) (aside.Cache, error) {
						client := redis.NewClient(&redis.Options{Addr: addr, Username: user, Password: password})
						t.Cleanup(func() { client.Close() })
						return aside.NewRedis(client, cfg)
					}
				},
			} {
				t.Run(when+" "+how+" "+text, func(t *testing.T) {
					t.Parallel()
					cfg, make := open(secrettest.Repeating(t, text, answers))
					said := used(t, cfg, make)
					secrettest.Check(t, how, said)
					if !strings.Contains(said, "unavailable") && !strings.Contains(said, "ERR") {
						t.Errorf("nothing is said of the trouble:\n%s", said)
					}
				})
			}
		}
	}
}

// A real server names the user who may not do something.
func TestSecrets_RealServers(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	if err := r.Client().Do(t.Context(), "ACL", "SETUSER", marker, "on", ">"+marker, "~*", "-@all", "+hello", "+auth").Err(); err != nil {
		t.Fatal(err)
	}
	for name, own := range map[string]aside.Redis{
		"no permission":    {Username: marker, Password: marker},
		"a wrong password": {Username: marker, Password: marker + "x"},
	} {
		own.Hosts = []string{r.Addr}
		said := used(t, aside.Config{Redis: own}, aside.Open)
		secrettest.Check(t, name, said)
		if !strings.Contains(said, "NOPERM") && !strings.Contains(said, "WRONGPASS") {
			t.Errorf("%s: want Redis's reason:\n%s", name, said)
		}
	}
}
