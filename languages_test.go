package aside_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redisstore"
	"github.com/cacheaside/aside/internal/redistest"
)

// languages are those of docs/other-languages.md. run returns the command for a program;
// uses is a program that tells whether the language's client is there.
var languages = []struct {
	name, block, program, require, uses string

	command func(program, text string) *exec.Cmd
}{
	{"Python", "python", pythonProgram(), "ASIDE_TEST_REQUIRE_PYTHON", "import redis", func(program, text string) *exec.Cmd {
		return exec.Command(program, "-c", text)
	}},
	{"Node", "js", "node", "ASIDE_TEST_REQUIRE_NODE", `require("redis")`, func(program, text string) *exec.Cmd {
		c := exec.Command(program, "-e", "(async () => {"+text+"\nprocess.exit(0)})().catch(e => { console.error(e); process.exit(1) })")
		c.Env = append(os.Environ(), "NODE_PATH="+os.Getenv("NODE_PATH")+":/usr/share/nodejs") // where Debian's packages are
		return c
	}},
	{"redis-cli", "sh", "bash", "ASIDE_TEST_REQUIRE_REDIS", "redis-cli --version", func(program, text string) *exec.Cmd {
		return exec.Command(program, "-euc", text)
	}},
}

func pythonProgram() string {
	if program := os.Getenv("ASIDE_TEST_PYTHON"); program != "" {
		return program
	}
	return "python3"
}

// languageTask is a heading of the page: the state that aside has made before its block
// runs, and the state that the block must leave.
type languageTask struct {
	heading string
	test    func(t *testing.T, server *redistest.Server, run func() string)
}

type spoken []map[string]string

var hello = spoken{{"role": "user", "content": "hello"}}

// say loads a history; it fails when another value is there.
func say(t *testing.T, c aside.Cache, key aside.Key) {
	t.Helper()
	got, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (spoken, error) { return hello, nil })
	if err != nil || len(got) != 1 || got[0]["content"] != "hello" {
		t.Fatalf("got %v, %v", got, err)
	}
}

// isStored fails the test unless the value key is there, or is not, as want says.
func isStored(t *testing.T, c redis.UniversalClient, key string, want bool) {
	t.Helper()
	if n, err := c.Exists(t.Context(), key).Result(); err != nil || (n == 1) != want {
		t.Fatalf("%s exists: %d, %v, want %v", key, n, err, want)
	}
}

// invalidates is the test of a block that deletes a key of a Config.
func invalidates(cfg aside.Config, key aside.Key) func(*testing.T, *redistest.Server, func() string) {
	return func(t *testing.T, server *redistest.Server, run func() string) {
		c := overRedis(t, server.Addr, cfg)
		say(t, c, key)
		say(t, c, key) // the fill has ended
		isStored(t, server.Client(), cfg.KeyPrefix+key.String(), true)
		run()
		isStored(t, server.Client(), cfg.KeyPrefix+key.String(), false)

		// A load that is running is not stored either.
		started, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error)
		go func() {
			_, err := aside.GetOrLoad(context.WithoutCancel(t.Context()), c, key, func(context.Context) (spoken, error) {
				close(started)
				<-goOn
				return hello, nil
			})
			done <- err
		}()
		<-started
		run()
		close(goOn)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil { // waits for the fill
			t.Fatal(err)
		}
		isStored(t, server.Client(), cfg.KeyPrefix+key.String(), false)
	}
}

var languageTasks = []languageTask{
	{"Read", func(t *testing.T, server *redistest.Server, run func() string) {
		c := overRedis(t, server.Addr, aside.Config{})
		say(t, c, aside.ChatMessages("A"))
		say(t, c, aside.ChatMessages("A"))
		if out := run(); !strings.Contains(out, "hello") {
			t.Errorf("it printed %q", out)
		}
	}},
	{"Fill", func(t *testing.T, server *redistest.Server, run func() string) {
		run()
		got, err := aside.GetOrLoad(t.Context(), overRedis(t, server.Addr, aside.Config{}), aside.ChatMessages("B"), func(context.Context) (spoken, error) {
			return nil, errors.New("it was not filled")
		})
		if err != nil || len(got) != 1 || got[0]["content"] != "hello" {
			t.Errorf("got %v, %v", got, err)
		}
	}},
	{"Invalidate", invalidates(aside.Config{}, aside.ChatMessages("A"))},
	{"Not found", func(t *testing.T, server *redistest.Server, run func() string) {
		c := overRedis(t, server.Addr, aside.Config{})
		key := aside.Keyspace{Name: "user", NotFoundTTL: time.Minute}.Key("42")
		look := func(rows int, want error, when string) {
			_, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) {
				if rows == 0 {
					return "", aside.ErrNotFound
				}
				return "Ann", nil
			})
			if !errors.Is(err, want) {
				t.Errorf("%s: got %v, want %v", when, err, want)
			}
		}
		look(0, aside.ErrNotFound, "without a row")
		look(1, aside.ErrNotFound, "remembered")
		run()
		look(1, nil, "after the DEL")
	}},
	{"Key prefix", invalidates(aside.Config{KeyPrefix: "app:"}, aside.ChatMessages("A"))},
	{"Hash tags", invalidates(aside.Config{}, aside.ChatMessages("{A}"))},
	{"Generations", func(t *testing.T, server *redistest.Server, run func() string) {
		generations, err := aside.NewGenerations(overRedis(t, server.Addr, aside.Config{}))
		if err != nil {
			t.Fatal(err)
		}
		g, err := generations.Start(t.Context(), "A")
		if err != nil {
			t.Fatal(err)
		}
		defer g.Finish()
		run()
		select {
		case <-g.Context().Done():
		case <-time.After(time.Minute):
			t.Fatal("the generation goes on")
		}
		if err := context.Cause(g.Context()); !errors.Is(err, aside.ErrCancelled) {
			t.Errorf("it ended with %v", err)
		}
	}},
	{"Cluster", nil}, // TestLanguages_OnACluster
}

// Each block of docs/other-languages.md has the effect on a real Redis that the page names.
func TestLanguages(t *testing.T) {
	t.Parallel()
	eachLanguage(t, func(t *testing.T, run func(t *testing.T, addr, heading, more string) string) {
		for _, task := range languageTasks {
			if task.test == nil {
				continue
			}
			t.Run(task.heading, func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				task.test(t, server, func() string { return run(t, server.Addr, task.heading, "") })
			})
		}
	})
}

// On a Cluster both keys of a DEL are in one slot.
func TestLanguages_OnACluster(t *testing.T) {
	t.Parallel()
	redistest.Require(t, "redis-server")
	servers := redistest.StartCluster(t)
	client := redistest.ClusterClient(t, servers)
	eachLanguage(t, func(t *testing.T, run func(t *testing.T, addr, heading, more string) string) {
		if err := client.Set(t.Context(), "chat_messages:A", "[]", time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
		run(t, servers[0].Addr, "Cluster", "")
		isStored(t, client, "chat_messages:A", false)
	})
}

// The page's functions name the lease key that aside uses, or refuse.
func TestLanguages_LeaseKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	keys := []string{"chat_messages:A", "app:user:1", "u:{a}", "u:a{b}c", "{app}:u:1", "u:{}", "u:{", "u:{a", "u:{{a}}", "u:{a}{b}", "u:}{", "u:a}", "u:}", "u:}{a}", "u:한글"}
	eachLanguage(t, func(t *testing.T, run func(t *testing.T, addr, heading, more string) string) {
		list, err := json.Marshal(keys)
		if err != nil {
			t.Fatal(err)
		}
		var more string
		switch {
		case strings.HasSuffix(t.Name(), "Python"):
			more = "for key in " + string(list) + ":\n try: print('=' + lease_key(key))\n except ValueError: print('=refused')"
		case strings.HasSuffix(t.Name(), "Node"):
			more = "for (const key of " + string(list) + ") try { console.log('=' + leaseKey(key)) } catch { console.log('=refused') }"
		default:
			return // the page has no function for it
		}
		_, printed, _ := strings.Cut(run(t, server.Addr, "Hash tags", more), "=")
		got := strings.Split(strings.TrimSpace(printed), "\n=")
		if len(got) != len(keys) {
			t.Fatalf("got %q for %q", got, keys)
		}
		for i, key := range keys {
			want := redisstore.LeaseKey(key)
			if strings.HasPrefix(want, "lease::{") {
				want = "refused"
			}
			if got[i] != want {
				t.Errorf("the lease key of %q: got %q, want %q", key, got[i], want)
			}
		}
	})
}

var pageBlock = regexp.MustCompile("(?m)^## (.+)$|(?s)```(\\w+)\n(.*?)```")

// eachLanguage calls test with each language that is installed, and a function that runs
// the page's block under a heading, after the one under "Connect", with more at its end.
func eachLanguage(t *testing.T, test func(t *testing.T, run func(t *testing.T, addr, heading, more string) string)) {
	t.Helper()
	page, err := os.ReadFile("docs/other-languages.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := make(map[string]map[string]string) // by language and heading
	heading := ""
	for _, m := range pageBlock.FindAllStringSubmatch(string(page), -1) {
		if m[1] != "" {
			heading = m[1]
			continue
		}
		if blocks[m[2]] == nil {
			blocks[m[2]] = make(map[string]string)
		}
		blocks[m[2]][heading] += m[3]
	}
	for _, l := range languages {
		for heading := range blocks[l.block] {
			if heading != "Connect" && !slices.ContainsFunc(languageTasks, func(task languageTask) bool { return task.heading == heading }) {
				t.Errorf("no test runs the block of %s under %q", l.name, heading)
			}
		}
		t.Run(l.name, func(t *testing.T) {
			if err := l.command(l.program, l.uses).Run(); err != nil {
				if os.Getenv(l.require) != "" {
					t.Fatalf("%s with its client of Redis: %v", l.name, err)
				}
				t.Skipf("no %s with its client of Redis: %v", l.name, err)
			}
			test(t, func(t *testing.T, addr, heading, more string) string {
				t.Helper()
				block, ok := blocks[l.block][heading]
				if !ok {
					t.Fatalf("the page has no block of %s under %q", l.name, heading)
				}
				_, port, err := net.SplitHostPort(addr)
				if err != nil {
					t.Fatal(err)
				}
				text := block
				if heading != "Cluster" {
					text = blocks[l.block]["Connect"] + block
				}
				text = strings.NewReplacer("6379", port, "redis-cli", "redis-cli -p "+port, "localhost", "127.0.0.1").Replace(text + "\n" + more)
				var out, errs bytes.Buffer
				c := l.command(l.program, text)
				c.Stdout, c.Stderr = &out, &errs
				if err := c.Run(); err != nil {
					t.Fatalf("%v\n%s\n%s", err, text, &errs)
				}
				return out.String()
			})
		})
	}
}
