// Speed measures the gain of the cache. It reads histories of a large database from the chat
// server over HTTP, with the cache off, in memory, and on Redis.
//
//	go run ./examples/speed
//	go run ./examples/speed -postgres postgres://user@host/db
//
// The figures of Redis need redis-server on the PATH. The program fills the databases first,
// which takes a minute or two.
package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite"
)

type options struct {
	rooms, messages int           // of each database
	reads           int           // per round
	rounds          int           // per server; the median of the rounds counts
	delay           time.Duration // DATABASE_DELAY of the servers with a distant database
	postgres        string        // URL of an empty database, or empty for SQLite alone
}

func main() {
	var o options
	flag.IntVar(&o.rooms, "rooms", 1000, "number of rooms in the database")
	flag.IntVar(&o.messages, "messages", 1_000_000, "number of messages in all rooms together")
	flag.IntVar(&o.reads, "reads", 200, "number of histories read per round")
	flag.IntVar(&o.rounds, "rounds", 5, "number of rounds, of which the median counts")
	flag.DurationVar(&o.delay, "delay", 30*time.Millisecond, "time that a distant database takes in addition")
	flag.StringVar(&o.postgres, "postgres", "", "the `URL` of an empty PostgreSQL database")
	flag.Parse()
	if err := speed(o); err != nil {
		fmt.Fprintln(os.Stderr, "speed:", err)
		os.Exit(1)
	}
}

// speed prints the table. The chat server runs as a process of its own and is asked over HTTP,
// so each figure has the costs that a client of the server sees.
func speed(o options) error {
	if o.rooms < 1 || o.messages < o.rooms || o.reads < 1 || o.rounds < 1 {
		return errors.New("want -rooms, -reads and -rounds of at least 1, and -messages of at least -rooms")
	}
	dir, err := os.MkdirTemp("", "speed")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "chatserver")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/cacheaside/aside/examples/chatserver").CombinedOutput(); err != nil {
		return fmt.Errorf("building the chat server: %w\n%s", err, out)
	}
	redisAddr, stop, err := startRedis(dir)
	if err != nil {
		return err
	}
	defer stop()
	databases := []database{{"SQLite", filepath.Join(dir, "speed.db")}}
	if o.postgres != "" {
		databases = append(databases, database{"PostgreSQL", o.postgres})
	}
	fmt.Printf("%d rooms, %d messages; %s/%s, %d CPUs, %s; a history is read %d times a round, medians of %d rounds\n",
		o.rooms, o.messages, runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), o.reads, o.rounds)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "database\ttakes besides\tcache\ta repeated read\ttimes as fast\t")
	for _, db := range databases {
		if err := measure(o, db, binary, redisAddr, table); err != nil {
			return fmt.Errorf("%s: %w", db.name, err)
		}
	}
	return table.Flush()
}

type database struct{ name, url string }

// measure fills a database and times reads of its rooms. The servers, one for each cache, run
// at the same time and take turns in random order, so that a slow moment of the machine does
// not count against one cache alone.
func measure(o options, db database, binary, redisAddr string, table io.Writer) error {
	rooms, err := fill(o, db, binary)
	if err != nil {
		return err
	}
	for _, delay := range []time.Duration{0, o.delay} {
		var servers []*server
		for _, cache := range []string{"none", "memory", "redis"} {
			if cache == "redis" && redisAddr == "" {
				continue
			}
			s, err := startServer(binary, db, cache, redisAddr, delay)
			if err != nil {
				return err
			}
			defer s.stop()
			servers = append(servers, s)
		}
		times := make(map[*server][]time.Duration)
		for range o.rounds {
			rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
			for _, s := range servers {
				took, err := s.round(rooms, o.reads)
				if err != nil {
					return err
				}
				times[s] = append(times[s], took)
			}
		}
		slices.SortFunc(servers, func(a, b *server) int { return cmp.Compare(median(times[b]), median(times[a])) })
		off := servers[slices.IndexFunc(servers, func(s *server) bool { return s.cache == "none" })]
		for _, s := range servers {
			took := median(times[s])
			fmt.Fprintf(table, "%s\t%v\t%s\t%v\t%.1f\t\n", db.name, delay, s.cache, took.Round(time.Microsecond), float64(median(times[off]))/float64(took))
			s.stop()
		}
	}
	return nil
}

func median(times []time.Duration) time.Duration {
	times = slices.Sorted(slices.Values(times))
	return times[len(times)/2]
}

// fill fills the tables, which it has the chat server make by starting it once. It writes to
// the database directly, which is much faster than a request for each message.
func fill(o options, db database, binary string) (rooms []string, err error) {
	s, err := startServer(binary, db, "none", "", 0)
	if err != nil {
		return nil, err
	}
	s.stop()
	driver, dsn := "pgx", db.url
	if db.name == "SQLite" {
		driver, dsn = "sqlite", "file:"+db.url+"?_pragma=synchronous(OFF)&_pragma=journal_mode(WAL)"
	}
	pool, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	tx, err := pool.Begin()
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	const at = "2026-01-02T03:04:05.000000Z"
	for i := range o.rooms {
		rooms = append(rooms, fmt.Sprintf("room%06d", i))
		if _, err := tx.Exec("INSERT INTO chats (chat_id, user_id, title, created_at) VALUES ($1, 'speed', 'speed', $2)", rooms[i], at); err != nil {
			return nil, err
		}
	}
	// Messages of a room lie apart, as they do when rooms are used at the same time.
	const batch = 100
	for i := 0; i < o.messages; i += batch {
		var text strings.Builder
		text.WriteString("INSERT INTO messages (chat_id, role, content, created_at) VALUES ")
		for j := i; j < min(i+batch, o.messages); j++ {
			if j > i {
				text.WriteString(", ")
			}
			fmt.Fprintf(&text, "('%s', '%s', 'message %d: a reply of the usual length, about as long as what people write', '%s')", rooms[j%o.rooms], []string{"user", "assistant"}[j/o.rooms%2], j, at)
		}
		if _, err := tx.Exec(text.String()); err != nil {
			return nil, err
		}
	}
	if err := tx.Commit(); err != nil {
		return nil, err
	}
	_, err = pool.Exec("ANALYZE")
	return rooms, err
}

// server is a chat server in a process of its own.
type server struct {
	cache string
	url   string
	cmd   *exec.Cmd
}

func startServer(binary string, db database, cache, redisAddr string, delay time.Duration) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(addr)
	s := &server{cache: cache, url: "http://" + addr, cmd: exec.Command(binary)}
	s.cmd.Env = append(os.Environ(), "HOST="+host, "PORT="+port, "DATABASE_URL="+db.url, "LOG_LEVEL=warn", "DATABASE_DELAY="+delay.String(),
		"CACHE_TYPE="+cache, "CACHE_ENABLED=true", "CACHE_MEMORY_MAX_BYTES=536870912", "CACHE_KEY_PREFIX="+db.name+delay.String()+":")
	if redisAddr != "" {
		s.cmd.Env = append(s.cmd.Env, "REDIS_URL=redis://"+redisAddr)
	}
	s.cmd.Dir = filepath.Dir(binary) // a directory without a .env
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for range 600 {
		if res, err := http.Get(s.url + "/healthz"); err == nil {
			res.Body.Close()
			return s, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.stop()
	return nil, errors.New("the chat server did not answer within 30 s")
}

func (s *server) stop() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Signal(os.Interrupt)
		_ = s.cmd.Wait()
	}
}

// round reads random rooms twice each, and returns the median time of the second reads. The
// first read fills the cache, if there is one.
func (s *server) round(rooms []string, reads int) (time.Duration, error) {
	var times []time.Duration
	for range reads {
		url := s.url + "/api/v1/chats/" + rooms[rand.IntN(min(len(rooms), 100))] + "/messages"
		for again := range 2 {
			start := time.Now()
			if err := get(url); err != nil {
				return 0, err
			}
			if again == 1 {
				times = append(times, time.Since(start))
			}
		}
	}
	return median(times), nil
}

func get(url string) error {
	res, err := http.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK || n < 100 {
		return fmt.Errorf("%s: %s, %d bytes, %v", url, res.Status, n, err)
	}
	return nil
}

// startRedis starts redis-server on a free port, without persistence. If the PATH has none,
// addr is empty and the table has no figures of Redis.
func startRedis(dir string) (addr string, stop func(), err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		fmt.Println("redis-server not found on the PATH: no figures of Redis")
		return "", func() {}, nil
	}
	if addr, err = freeAddr(); err != nil {
		return "", nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(path, "--port", port, "--save", "", "--dir", dir)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	for range 200 {
		if err = client.Ping(context.Background()).Err(); err == nil {
			return addr, stop, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	return "", nil, fmt.Errorf("redis-server does not answer: %w", err)
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
