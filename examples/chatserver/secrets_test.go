package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
	"github.com/cacheaside/aside/internal/secrettest"
)

const marker = secrettest.Secret

// secretVars are the server's variables that hold a secret.
var secretVars = map[string]string{
	"DATABASE_URL": "", "CACHE_ADMIN_TOKEN": "", "OPENAI_API_KEY": "", "OPENAI_BASE_URL": "",
}

var harmlessVars = map[string]string{
	"REDIS_TLS": "the cache's, and true or false",
}

var secretFields = map[string]string{
	"settings.databaseURL": "", "settings.tracesTo": "", "settings.adminToken": "", "settings.model.apiKey": "", "settings.model.baseURL": "",
	"settings.cache.Redis.URL": "", "settings.cache.Redis.Hosts": "", "settings.cache.Redis.Username": "", "settings.cache.Redis.Password": "", "settings.cache.Redis.SentinelMaster": "",
	"settings.cache.Redis.SentinelUsername": "", "settings.cache.Redis.SentinelPassword": "", "settings.cache.Redis.TLSConfig": "", "settings.cache.Type": "",
}

var harmlessFields = map[string]string{
	"settings.addr": "an address that is listened on", "settings.name": "pages show it", "settings.model.name": "pages show it",
	"settings.cache.KeyPrefix": "it stands in front of keys", "settings.cache.Redis.TLS": "a bool", "settings.cache.Warnings": "they are written to be logged",
}

// variablesRead returns the names of variables in the server's own files.
func variablesRead(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, name := range secrettest.Variables(t, file) {
			names[name] = true
		}
	}
	// Other texts in capitals.
	maps.DeleteFunc(names, func(name string, _ bool) bool {
		return slices.Contains([]string{"DONE", "OFF", "HIT", "MISS", "STALE", "Z", "CACHE_ADMIN"}, name) || !strings.Contains(name, "_") && name != "HOST" && name != "PORT"
	})
	return slices.Sorted(maps.Keys(names))
}

var tableRow = regexp.MustCompile("(?m)^\\| (`[A-Z][^|]*) \\|")

// A variable, or a field of the settings, that looks as if it were secret is planted by the
// tests below or said to be harmless, and all that README.md lists are looked at.
func TestSecrets_EverySettingIsKnown(t *testing.T) {
	t.Parallel()
	secrettest.Classified(t, secrettest.Fields(settings{}), secretFields, harmlessFields)
	names := variablesRead(t)
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Settings\n")
	section, _, _ = strings.Cut(section, "\n## ")
	listed := 0
	for _, row := range tableRow.FindAllStringSubmatch(section, -1) {
		for _, name := range strings.Split(row[1], ", ") {
			listed++
			if name = strings.Trim(name, "`"); !slices.Contains(names, name) {
				t.Errorf("README.md lists %s, which no file names: %v", name, names)
			}
		}
	}
	if listed < 12 {
		t.Errorf("got %d variables from README.md", listed)
	}
	secrettest.Classified(t, slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !secrettest.IsSecretName(name) }), secretVars, harmlessVars)
}

// Each wrong value has a secret in it, as when a line of a .env file slips.
func TestSecrets_WrongValues(t *testing.T) {
	t.Parallel()
	for _, name := range variablesRead(t) {
		for _, text := range []string{
			marker, "5 " + marker, "postgres://u:" + marker + "@h/db", "postgres://u:" + secrettest.InURL + "@127.0.0.1:1/db", "postgres://u:" + secrettest.InURL + "@h:x/db", "host=h password=" + marker,
			"http://u:" + secrettest.InURL + "@h:x", "http://" + marker + "@h", "redis://:" + marker + "@h", "/no/such/" + marker, "${" + marker + "}", marker + "\n", "tcp://u:" + marker + "@10.0.0.1:1",
		} {
			env := map[string]string{"CACHE_TYPE": "memory", "OPENAI_API_KEY": marker, "CACHE_ADMIN_TOKENS": marker, "DATABASE_URL": "postgres://u:" + secrettest.InURL + "@127.0.0.1:1/db", name: text}
			set, err := readSettings(env)
			secrettest.Check(t, fmt.Sprintf("%s=%s", name, text), fmt.Sprint(err))
			delete(env, "CACHE_ADMIN_TOKENS")
			if set, err = readSettings(env); err != nil {
				secrettest.Check(t, fmt.Sprintf("%s=%s", name, text), err.Error())
				continue
			}
			switch name {
			case "HOST", "PORT":
				err = serve(t.Context(), set.addr, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
			case "DATABASE_URL":
				if !strings.Contains(text, "/") {
					continue // a path, which is a file's name
				}
				_, err = openDatabase(t.Context(), set.databaseURL)
			default:
				continue
			}
			secrettest.Check(t, fmt.Sprintf("%s=%s at the start", name, text), fmt.Sprint(err))
			if err == nil {
				t.Errorf("%s=%s: want an error", name, text)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "chat.db")
	if err := os.WriteFile(file, []byte(marker+strings.Repeat("no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openDatabase(t.Context(), file)
	secrettest.Check(t, "a file that is no database", fmt.Sprint(err))
	for _, text := range []string{marker, "A='" + marker, "A=${" + marker + "}", marker + "=1\n2 " + marker, "\xff" + marker} {
		path := filepath.Join(t.TempDir(), ".env")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, warnings, err := environment(path, nil)
		secrettest.Check(t, "a .env file", fmt.Sprint(warnings, err))
	}
}

// A server with a secret in each setting is asked for everything that it serves, until it
// stops, while its Redis and its model fail with errors that repeat the secrets. Neither an
// answer nor the log shows one.
func TestSecrets_Server(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(w http.ResponseWriter, r *http.Request){
		"a refused key": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":{"message":"Incorrect API key provided: %s","code":%q}}`, r.Header.Get("Authorization"), r.URL)
		},
		"an error in the stream": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "data: {\"error\":{\"message\":%q}}\n\n", r.Header.Get("Authorization"))
		},
		"no answer": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"a broken redirect": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://u:"+secrettest.InURL+"@127.0.0.1:1/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"no JSON": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, r.Header)
		},
	} {
		for backend, env := range map[string]string{"memory": "CACHE_TYPE=memory", "redis": "REDIS_URL=redis://u:" + secrettest.InURL + "@" + secrettest.Repeating(t, "WRONGPASS of '%s'", func(string) bool { return true })} {
			t.Run(name+" "+backend, func(t *testing.T) {
				t.Parallel()
				model := httptest.NewServer(http.HandlerFunc(refuse))
				defer model.Close()
				dir := filepath.Join(t.TempDir(), "Pl4ntedS3cret")
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				file := env + "\nPORT=0\nLOG_LEVEL=debug\nSERVER_NAME=one\nCACHE_TIMEOUT=2\nOPENAI_MODEL=small\nOPENAI_TIMEOUT=20\n" +
					"OPENAI_BASE_URL=" + strings.Replace(model.URL, "http://", "http://"+secrettest.InURL+":"+secrettest.InURL+"@", 1) + "/v1?api-key=" + secrettest.InURL + "\n" +
					"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1/" + secrettest.InURL + "\n" +
					"OPENAI_API_KEY='" + marker + "'\nCACHE_ADMIN_TOKEN='" + marker + "'\nREDIS_PASSWORD='" + marker + "'\nDATABASE_URL=" + dir + "/chat.db\n"
				said := asked(t, file, filepath.Join(dir, "chat.db"))
				secrettest.Check(t, "the server", said)
				for _, want := range []string{"chatserver begins", "chatserver stops", "generation failed", "http_request_duration_seconds", `"clear_needs_token":true`, "needs Authorization", "request failed"} {
					if !strings.Contains(said, want) {
						t.Errorf("want %q in the server's answers and log, which end with:\n%s", want, said[max(0, len(said)-3000):])
					}
				}
				if backend == "redis" && !strings.Contains(said, "WRONGPASS") {
					t.Error("want Redis's reason in the log")
				}
			})
		}
	}
}

// asked runs a server, asks it for everything, and returns its answers and its log.
func asked(t *testing.T, file, database string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log := new(logtest.Buffer)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, path, log) }()
	listens := regexp.MustCompile(`chatserver listens" url=(\S+)`)
	redistest.Eventually(t, "it listens", func() bool { return listens.MatchString(log.String()) || len(ended) > 0 })
	at := listens.FindStringSubmatch(log.String())
	if at == nil {
		t.Fatalf("%v\n%s", <-ended, log)
	}
	var said strings.Builder
	ask := func(method, path, body string, header ...string) string {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, at[1]+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var from io.Reader = res.Body
		if strings.HasPrefix(path, "/api/v1/events") { // which do not end
			from = io.LimitReader(from, 200)
		}
		text, err := io.ReadAll(from)
		fmt.Fprintln(&said, method, path, res.Header, string(text), err)
		return string(text)
	}
	everything := func() {
		room := ask("POST", "/api/v1/chats", `{"user_id":"u","title":"t"}`)
		id := "none"
		if m := regexp.MustCompile(`"id":"([^"]+)"|"chat_id":"([^"]+)"`).FindStringSubmatch(room); m != nil {
			id = m[1] + m[2]
		}
		chat := "/api/v1/chats/" + id
		ask("GET", "/api/v1/chats?user_id=u", "")
		ask("POST", chat+"/messages", `{"role":"user","content":"hello"}`)
		ask("GET", chat+"/messages", "")
		ask("POST", chat+"/generate", "{}")
		ask("POST", chat+"/cancel", "")
		ask("GET", "/api/v1/events?chat_id="+id, "")
		for _, prefix := range []string{"/cache/", "/api/v1/cache/"} {
			for _, path := range []string{"status", "test", "config"} {
				ask("GET", prefix+path, "")
			}
			ask("POST", prefix+"clear", "")
			ask("POST", prefix+"clear", "", "Authorization", "Bearer wrong")
			ask("POST", prefix+"clear", "", "Authorization", "Bearer "+marker)
		}
		for _, path := range []string{"/", "/page/chat.js", "/healthz", "/metrics", "/none", "/debug/vars", "/debug/pprof/cmdline", "/debug/pprof/"} {
			ask("GET", path, "")
		}
		ask("DELETE", chat, "")
	}
	everything()
	db, err := openDatabase(ctx, database)
	if err == nil {
		_, err = db.Exec("ALTER TABLE messages RENAME TO lost")
	}
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	everything()
	http.DefaultClient.CloseIdleConnections()
	stop()
	err = <-ended
	return said.String() + fmt.Sprint(err) + log.String()
}

// panicking is a model whose replies panic.
type panicking struct{ set settings }

func (p panicking) Respond(context.Context, []Message) iter.Seq2[string, error] {
	panic(errors.New("the model broke"))
}

// A handler's panic is in the log with its stack, and without the settings in it.
func TestSecrets_Panic(t *testing.T) {
	t.Parallel()
	log := new(logtest.Buffer)
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	set, err := readSettings(map[string]string{"CACHE_TYPE": "memory", "CACHE_ADMIN_TOKEN": marker, "OPENAI_API_KEY": marker, "DATABASE_URL": "postgres://u:" + secrettest.InURL + "@h/db"})
	if err != nil {
		t.Fatal(err)
	}
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	s, err := newServer(t.Context(), set, c.repo, newMetrics(), noTraces, logger)
	if err != nil {
		t.Fatal(err)
	}
	s.responder = panicking{set}
	ctx, stop := context.WithCancel(t.Context())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- serveOn(ctx, listener, s.Handler(cacheRoutes(c.cache, set.cache, set.adminToken)), logger)
	}()
	room := c.room()
	c.say(room, "hello")
	if res, err := http.Post("http://"+listener.Addr().String()+"/api/v1/chats/"+room+"/generate", "application/json", strings.NewReader("{}")); err == nil {
		res.Body.Close()
	}
	redistest.Eventually(t, "the panic is logged", func() bool { return strings.Contains(log.String(), "the model broke") })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	secrettest.Check(t, "the log", log.String())
}
