package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cacheaside/aside/internal/redistest"
)

// postgresEnv has the address of a PostgreSQL that all tests are to run over.
const postgresEnv = "ASIDE_TEST_POSTGRES_URL"

// newDatabase returns the DATABASE_URL of an empty database: SQLite, or one in the
// PostgreSQL that the tests run over.
func newDatabase(t *testing.T) string {
	t.Helper()
	server := os.Getenv(postgresEnv)
	if server == "" {
		return filepath.Join(t.TempDir(), "chat.db")
	}
	admin, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	name := "test_" + strings.ToLower(rand.Text())
	if _, err := admin.ExecContext(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(server, "/postgres?", "/"+name+"?", 1)
}

// All other tests, but those with a browser, run once more over PostgreSQL.
func TestOverPostgreSQL(t *testing.T) {
	if os.Getenv(postgresEnv) != "" {
		return
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.skip=Browser|TestMain_", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), postgresEnv+"="+startPostgres(t))
	cmd.SysProcAttr = redistest.DieWithParent()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := bytes.Count(out, []byte("--- PASS")); n < 10 {
		t.Errorf("%d tests ran", n)
	}
}

// startPostgres starts a PostgreSQL of the test's own, if there is one on this
// machine, and returns its address. It skips the test where there is none, or fails
// it if ASIDE_TEST_REQUIRE_POSTGRES is set.
func startPostgres(t *testing.T) (databaseURL string) {
	t.Helper()
	initdb, err := exec.LookPath("initdb")
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); err != nil && len(found) > 0 {
		initdb, err = found[len(found)-1], nil
	}
	if err != nil {
		if os.Getenv("ASIDE_TEST_REQUIRE_POSTGRES") != "" {
			t.Fatal("PostgreSQL's initdb is not on this machine, and is required")
		}
		t.Skip("PostgreSQL's initdb is not on this machine")
	}
	dir, err := os.MkdirTemp("", "pg") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	as := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() == 0 { // PostgreSQL refuses to run as root
		as.Credential = postgresUser(t)
		if err := os.Chown(dir, int(as.Credential.Uid), int(as.Credential.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(filepath.Dir(initdb), name), args...)
		cmd.Dir, cmd.SysProcAttr, cmd.Env = dir, as, append(os.Environ(), "LC_ALL=C", "TZ=UTC")
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	var log bytes.Buffer
	server := run("postgres", "-D", data, "-k", dir, "-h", "", "-F", "-c", "max_connections=500")
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT)
		_ = server.Wait()
	})
	databaseURL = "postgres://postgres@/postgres?host=" + dir
	db, err := sql.Open("pgx", databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for range 200 {
		if err = db.PingContext(t.Context()); err == nil {
			return databaseURL
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("PostgreSQL does not answer: %v\n%s", err, log.Bytes())
	return ""
}

func postgresUser(t *testing.T) *syscall.Credential {
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ := strconv.ParseUint(u.Uid, 10, 32)
			gid, _ := strconv.ParseUint(u.Gid, 10, 32)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	t.Fatal("there is no user postgres or nobody to run PostgreSQL as")
	return nil
}

// Servers that start at once on an empty database all find their tables.
func TestDatabase_MigratedByManyAtOnce(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			db, err := openDatabase(t.Context(), url)
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			if err := db.QueryRowContext(t.Context(), "SELECT 1 FROM messages").Scan(new(int)); err != sql.ErrNoRows {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A database of the first version, which had no migrations, is kept as it is.
func TestDatabase_OfTheFirstVersion(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "old ?#%.db")
	db, err := sql.Open("sqlite", sqliteDSN(path))
	if err != nil {
		t.Fatal(err)
	}
	text, err := fs.ReadFile(migrations, "migrations/sqlite/0001_chats.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), string(text)); err != nil {
		t.Fatal(err)
	}
	for i, at := range []string{"2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1Z"} {
		if _, err := db.ExecContext(t.Context(), "INSERT INTO chats VALUES ($1, 'u', 'old', $2)", fmt.Sprint(i), at); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	if db, err = openDatabase(t.Context(), "sqlite://"+path); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	chats, err := (&Repository{db: db}).Chats(context.Background(), "u")
	if err != nil || len(chats) != 2 || chats[0].CreatedAt.Year() != 2026 {
		t.Errorf("got %v, %v", chats, err)
	}
}
