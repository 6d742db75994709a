package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

// A setting that protects something is a value, or absent.
func TestSettings_Protecting(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"CACHE_ADMIN_TOKEN":   {"", " ", "\t\n", "hunter2\n", "hun\nter2", "hunter2\x00", "hunter2\x7f", "hunter2\u200b", "${hunter2}", "$(hunter2)", "\ufeffhunter2"},
		"CACHE_REFUSE_WRITES": {"", " "},
		"REDIS_TLS":           {"", " "},
		"DATABASE_URL":        {"", " ", "\t\n"},
	} {
		for _, value := range values {
			if _, err := readSettings(map[string]string{name: value}); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s=%q: %v", name, value, err)
			}
		}
	}
	if _, err := readSettings(map[string]string{"CACHE_TYPE": "memory", "REDIS_TLS": "", "REDIS_PORT": "tcp://10.0.0.1:6379"}); err != nil {
		t.Errorf("without a Redis: %v", err)
	}
	for value, want := range map[string]string{"s3$CRET 안녕": "s3$CRET 안녕", " s3cret ": "s3cret"} {
		if s, err := readSettings(map[string]string{"CACHE_ADMIN_TOKEN": value}); err != nil || s.adminToken != want {
			t.Errorf("CACHE_ADMIN_TOKEN=%q: %q, %v", value, s.adminToken, err)
		}
	}
}

// The error for each wrong value says what is wanted, and shows no secret.
func TestSettings_Values(t *testing.T) {
	t.Parallel()
	for name, values := range map[string]map[string]bool{
		"PORT":            {"0": true, "65535": true, "65536": false, "-1": false, "x": false, "tcp://10.0.0.1:80": false},
		"LOG_LEVEL":       {"ERROR": true, "debug": true, "loud": false, "7": false},
		"RESPONDER_DELAY": {"0": true, "0.5": true, "5ms": true, "-1": false, "x": false, "1e400": false, "NaN": false},
		"DATABASE_DELAY":  {"0": true, "1.5": true, "-1ms": false},
		"OPENAI_TIMEOUT":  {"60": true, "1ms": true, "0": false, "1us": false},
		"OPENAI_BASE_URL": {"http://h/v1": true, "https://h": true, "ftp://hunter2@h": false, "http://": false, "h": false, "h:hunter2/v1": false, "http://hunter2:x": false, "http:hunter2": false},
		"OPENAI_API_KEY":  {"hunter2": true},
	} {
		for value, accepted := range values {
			env := map[string]string{name: value}
			if name == "OPENAI_BASE_URL" {
				env["OPENAI_MODEL"] = "m"
			}
			_, err := readSettings(env)
			if (err == nil) != accepted || err != nil && (!strings.HasPrefix(err.Error(), name) || !strings.Contains(err.Error(), "want ") || strings.Contains(err.Error(), "hunter2")) {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
	}
	if s, err := readSettings(map[string]string{"RESPONDER_DELAY": "0.5", "DATABASE_DELAY": "2"}); err != nil || s.responderWait != 500*time.Millisecond || s.databaseDelay != 2*time.Second {
		t.Errorf("%v, %v, %v", s.responderWait, s.databaseDelay, err)
	}
	if _, err := readSettings(map[string]string{"OPENAI_BASE_URL": "http://h"}); err == nil || !strings.Contains(err.Error(), "needs OPENAI_MODEL") {
		t.Errorf("without a model: %v", err)
	}
}

func TestSettings_Trimmed(t *testing.T) {
	t.Parallel()
	s, err := readSettings(map[string]string{
		"HOST": " ::1\t", "PORT": " 8000 ", "LOG_LEVEL": " warn ", "DATABASE_URL": " x.db\r", "RESPONDER_DELAY": " 2 ", "DATABASE_DELAY": " 3ms ",
		"OPENAI_BASE_URL": " http://h/v1 ", "OPENAI_API_KEY": " key\n", "OPENAI_MODEL": " m ", "OPENAI_TIMEOUT": " 5s", "SERVER_NAME": " one ",
	})
	m := s.model
	got := fmt.Sprintln(s.addr, s.logLevel, s.databaseURL, s.responderWait, s.databaseDelay, m.baseURL, m.apiKey, m.name, m.timeout, s.name)
	if want := "[::1]:8000 WARN x.db 2s 3ms http://h/v1 key m 5s one\n"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if s, err := readSettings(map[string]string{"HOST": "[::1]", "PORT": "080"}); err != nil || s.addr != "[::1]:80" {
		t.Errorf("brackets: %q, %v", s.addr, err)
	}
}

// An address that cannot be listened on is one of HOST and PORT.
func TestServe_Address(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for addr, reason := range map[string]string{
		taken.Addr().String(): "address already in use", "192.0.2.1:" + port: "cannot assign", "no..host:80": "", "[localhost:80]:80": "",
	} {
		err := serve(t.Context(), addr, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
		host, port, _ := net.SplitHostPort(addr)
		if err == nil || !strings.Contains(err.Error(), "HOST"+shown(host)+" and") || !strings.Contains(err.Error(), "PORT="+port) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// pipes is a listener of connections that are in this process, so that time is virtual.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A connection on which nothing was asked does not keep the server from its end, and a
// request that has begun does.
func TestServe_SilentConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		served, listener := make(chan error, 1), make(pipes)
		handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) })
		go func() { served <- serveOn(ctx, listener, handler, slog.New(slog.DiscardHandler)) }()
		var ends []net.Conn
		for range 3 {
			near, far := net.Pipe()
			defer near.Close()
			listener <- far
			ends = append(ends, near)
		}
		fmt.Fprint(ends[0], "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		synctest.Wait()
		began := time.Now()
		stop()
		answer, err := io.ReadAll(ends[0])
		if !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
			t.Errorf("the request that had begun: %q, %v", answer, err)
		}
		if err := <-served; err != nil || time.Since(began) > 2*time.Second { // http.Server looks each half second
			t.Errorf("%v after %v", err, time.Since(began))
		}
		for _, end := range ends[1:] {
			if n, err := end.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("a silent connection: %d bytes, %v", n, err)
			}
		}
	})
}

// runUntil runs the server with a .env file until its log has text, or until it fails.
func runUntil(t *testing.T, file, text string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var log logtest.Buffer
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, path, &log) }()
	redistest.Eventually(t, "it runs", func() bool { return strings.Contains(log.String(), text) || len(ended) > 0 })
	stop()
	err := <-ended
	return log.String(), err
}

// The first line of the log says which Redis is used. Where a REDIS_URL of the file
// overrules variables of the environment, the log says so, and that a comment was cut off
// a value. Not parallel, for it sets the environment.
func TestRun_NamesTheRedis(t *testing.T) {
	t.Setenv("REDIS_HOST", "other.example")
	file := fmt.Sprintf("PORT=0\nDATABASE_URL=%s\nCACHE_TIMEOUT=100ms\nREDIS_URL=redis://app:hun$ter2@127.0.0.1:1/2\nSERVER_NAME=one #hunter2\n", newDatabase(t))
	log, err := runUntil(t, file, "chatserver listens")
	first, rest, _ := strings.Cut(log, "\n")
	if err != nil || !strings.Contains(first, "redis=127.0.0.1:1/2") || strings.Count(rest, "REDIS_HOST is not used beside REDIS_URL") != 1 ||
		!strings.Contains(rest, "line 5: SERVER_NAME: the text behind") || strings.Contains(log, "ter2") {
		t.Errorf("%v\n%s", err, log)
	}
	path := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(path, []byte("REDIS_URL=redis://file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		process map[string]string
		url     string
	}{
		{map[string]string{"REDIS_HOST": "h"}, "redis://file"},
		{map[string]string{"REDIS_URL": "redis://environment", "REDIS_HOST": "h"}, "redis://environment"},
		{map[string]string{"REDIS_URL": "", "REDIS_HOST": "h"}, ""},
	} {
		if env, _, err := environment(path, c.process); err != nil || env["REDIS_URL"] != c.url {
			t.Errorf("%v: %q, %v", c.process, env["REDIS_URL"], err)
		}
	}
}

// A .env file that cannot be read, or that makes a token of nothing, ends the start.
func TestRun_WrongFile(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"CACHE_TYPE=memory\nCACHE_ADMIN_TOKEN=${ASIDE_NO_SUCH_NAME}\n": ".env: line 2: CACHE_ADMIN_TOKEN: ${ASIDE_NO_SUCH_NAME}",
		"CACHE_TYPE=memory\nCACHE_ADMIN_TOKEN=  # set in production\n": "CACHE_ADMIN_TOKEN is set and empty",
		"CACHE_TYPE=memory\nCACHE_ADMIN_TOKEN='hunter2\n":              ".env: line 2: CACHE_ADMIN_TOKEN: the single quote",
		"CACHE_TYPE=memory\nCACHE_ADMIN_TOKEN\n":                       ".env: line 2: CACHE_ADMIN_TOKEN: there is no =",
		"CACHE_TYPE\n":                                                 ".env: line 1: CACHE_TYPE: there is no =",
		"CACHE_TYPE=memory\n\nhunter2 x\n":                             ".env: line 3: want NAME=value",
	} {
		if _, err := runUntil(t, file, "chatserver listens"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", file, err)
		}
	}
	if _, _, err := environment(t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
}

func TestRedisName(t *testing.T) {
	t.Parallel()
	for want, env := range map[string]map[string]string{
		"localhost:6379/0":                    {},
		"db:7000/3":                           {"REDIS_HOST": "db", "REDIS_PORT": "7000", "REDIS_DB": "3", "REDIS_PASSWORD": "hunter2"},
		"[::1]:6379/0":                        {"REDIS_HOST": "::1"},
		"h:6379/1":                            {"REDIS_URL": "rediss://app:hunter2@h/1"},
		"/run/r.sock/2":                       {"REDIS_URL": "unix://app:hunter2@/run/r.sock?db=2"},
		"cluster h:6379":                      {"REDIS_URL": "redis://:hunter2@h", "REDIS_CLUSTER": "true"},
		"cluster a:1,b:6379":                  {"REDIS_HOST": "a:1,b"},
		"master m of sentinels a:26379,b:1/2": {"REDIS_HOST": "a,b:1", "REDIS_SENTINEL_MASTER": "m", "REDIS_DB": "2", "REDIS_USERNAME": "u", "REDIS_PASSWORD": "hunter2"},
	} {
		c, err := aside.ConfigFromEnv(environ(env))
		if err != nil {
			t.Fatal(err)
		}
		if got := redisName(c); got != want {
			t.Errorf("%v: got %q, want %q", env, got, want)
		}
	}
}

// A token under a name that is nearly the right one would leave the cache open to all.
func TestSettings_AMisspeltTokenIsRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"CACHE_ADMIN_TOKN", "cache_admin_token", "Cache_Admin_Token", "CACHE_ADMIN", "CACHE_ADMIN_TOKENS"} {
		_, err := readSettings(map[string]string{name: "hunter2"})
		if err == nil || !strings.Contains(err.Error(), name+" is not read") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want an error that names it", name, err)
		}
	}
	if s, err := readSettings(map[string]string{"CACHE_ADMIN_TOKEN": "hunter2"}); err != nil || s.adminToken != "hunter2" {
		t.Errorf("got %v, want the token", err)
	}
}
