// Package pgtest starts PostgreSQL servers for tests.
package pgtest

import (
	"bytes"
	"database/sql"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// Start starts a private PostgreSQL server for the test and returns its address. The server
// stops when the test ends. It listens on a Unix socket only, so that tests need no free
// port. If PostgreSQL is not installed, Start skips the test, or fails it if
// ASIDE_TEST_REQUIRE_POSTGRES is set.
func Start(t testing.TB) (databaseURL string) {
	t.Helper()
	initdb, err := exec.LookPath("initdb")
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); err != nil && len(found) > 0 {
		initdb, err = found[len(found)-1], nil
	}
	if err != nil {
		if os.Getenv("ASIDE_TEST_REQUIRE_POSTGRES") != "" {
			t.Fatal("PostgreSQL's initdb not found, and ASIDE_TEST_REQUIRE_POSTGRES is set")
		}
		t.Skip("PostgreSQL's initdb not found")
	}
	dir, err := os.MkdirTemp("", "pg") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// Pdeathsig stops the server also when the test binary is killed.
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

// postgresUser returns a user without privileges, for tests that run as root.
func postgresUser(t testing.TB) *syscall.Credential {
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
