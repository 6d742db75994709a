package aside

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redisstore"
	"github.com/cacheaside/aside/internal/redistest"
)

// refusals are what servers send that serve nobody, word for word. Each entry of
// troubles has one at least.
var refusals = []string{
	"LOADING Redis is loading the dataset in memory",
	"CLUSTERDOWN The cluster is down",
	"CLUSTERDOWN Hash slot not served",
	"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
	"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
	"NOAUTH Authentication required.",
	"WRONGPASS invalid username-password pair or user is disabled.",
	"DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user.",
	"ERR max number of clients reached",
	"ERR DB index is out of range",
	"ERR invalid DB index",
	"ERR SELECT is not allowed in cluster mode",
	"ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
	"ERR invalid password",
	"ERR Client sent AUTH, but no password is set",
	"ERR This instance has cluster support disabled",
}

// refusing is a server that answers each command with one error, or only the first
// ones of a connection; then it answers as an empty Redis does.
func refusing(t *testing.T, text string, refuses func(command string) bool) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for {
					command, err := commandFrom(r)
					if err != nil {
						return
					}
					answer := "$-1\r\n"
					if refuses(command) {
						answer = "-" + text + "\r\n"
					}
					if _, err := conn.Write([]byte(answer)); err != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().String()
}

func commandFrom(r *bufio.Reader) (name string, err error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	for i := 0; i < n && err == nil; i++ {
		if _, err = r.ReadString('\n'); err != nil {
			break
		}
		var word string
		if word, err = r.ReadString('\n'); i == 0 {
			name = strings.ToLower(strings.TrimSpace(word))
		}
	}
	return name, err
}

// Each reply that says that a server serves nobody opens the breaker, is logged once
// and is in Status, whether it comes for the command or while the client connects.
func TestTroubles_EachReply(t *testing.T) {
	t.Parallel()
	for _, prefix := range redisstore.Troubles {
		sent := false
		for _, text := range refusals {
			sent = sent || strings.HasPrefix(strings.TrimPrefix(text, "ERR "), prefix)
		}
		if !sent {
			t.Errorf("no test sends a reply that begins with %q", prefix)
		}
	}
	for _, text := range refusals {
		for when, refuses := range map[string]func(string) bool{
			"for each command":  func(string) bool { return true },
			"while it connects": func(command string) bool { return command == "select" || command == "hello" },
			"to an old AUTH":    func(command string) bool { return command == "auth" || command == "hello" },
		} {
			t.Run(text+" "+when, func(t *testing.T) {
				t.Parallel()
				addr := refusing(t, text, refuses)
				cfg := Config{Redis: Redis{Hosts: []string{addr}, DB: 1}}
				if when == "to an old AUTH" {
					cfg.Redis.Password = "s3cret"
				}
				showsTrouble(t, cfg, text)
			})
		}
	}
}

// showsTrouble reads with a Redis that refuses, and looks for what tells of it.
func showsTrouble(t *testing.T, cfg Config, text string) {
	t.Helper()
	log := new(logtest.Buffer)
	cfg.Timeout, cfg.Logger = 20*time.Second, slog.New(slog.NewTextHandler(log, nil))
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 6 {
		v, err := GetOrLoad(t.Context(), c, ChatMessages(fmt.Sprint(i)), func(context.Context) (string, error) { return "v", nil })
		if v != "v" || err != nil {
			t.Fatal(v, err)
		}
	}
	s, err := c.Status(t.Context())
	if s.Breaker != "open" {
		t.Errorf("the breaker is %s", s.Breaker)
	}
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), text) {
		t.Errorf("Status: %v", err)
	}
	if n := strings.Count(log.String(), "does not answer"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}

// The same from real servers, as far as they can be brought to it.
func TestTroubles_OfRealServers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		server func(t *testing.T) *redistest.Server
		cfg    Redis
		text   string
	}{
		"a database that does not exist": {func(t *testing.T) *redistest.Server { return redistest.Start(t) }, Redis{DB: 16}, "DB index is out of range"},
		"a database in a URL":            {func(t *testing.T) *redistest.Server { return redistest.Start(t) }, Redis{URL: "/99"}, "DB index is out of range"},
		"no password": {func(t *testing.T) *redistest.Server {
			r := redistest.Start(t)
			r.Client().ConfigSet(t.Context(), "requirepass", "s3cret")
			return r
		}, Redis{}, "NOAUTH"},
		"a wrong password": {func(t *testing.T) *redistest.Server {
			r := redistest.Start(t)
			r.Client().ConfigSet(t.Context(), "requirepass", "s3cret")
			return r
		}, Redis{Password: "guess"}, "WRONGPASS"},
		"too many clients": {func(t *testing.T) *redistest.Server {
			r := redistest.Start(t)
			held := r.Client().Conn()
			t.Cleanup(func() { held.Close() })
			held.ConfigSet(t.Context(), "maxclients", "1")
			return r
		}, Redis{}, ""}, // the server closes the connection at once, and what it said may be lost
		"a Cluster that is down": {func(t *testing.T) *redistest.Server {
			return redistest.Start(t, "--cluster-enabled", "yes")
		}, Redis{}, "CLUSTERDOWN"},
		"a replica without its master": {func(t *testing.T) *redistest.Server {
			return redistest.Start(t, "--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "no")
		}, Redis{}, ""},
		"a script that does not end": {func(t *testing.T) *redistest.Server {
			r := redistest.Start(t, "--lua-time-limit", "1")
			busy := redis.NewClient(&redis.Options{Addr: r.Addr, ReadTimeout: -1})
			var wg sync.WaitGroup
			wg.Go(func() { busy.Eval(context.Background(), "while true do end", nil) })
			t.Cleanup(func() { r.Kill(); busy.Close(); wg.Wait() })
			redistest.Eventually(t, "it is busy", func() bool { return redis.HasErrorPrefix(r.Client().Get(t.Context(), "x").Err(), "BUSY") })
			return r
		}, Redis{}, "BUSY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := c.cfg
			addr := c.server(t).Addr
			if cfg.Hosts = []string{addr}; cfg.URL != "" {
				cfg.URL = "redis://" + addr + cfg.URL
			}
			showsTrouble(t, Config{Redis: cfg}, c.text)
		})
	}
}
