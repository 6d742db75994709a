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
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cacheaside/aside/examples/internal/pgtest"
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
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.skip=Browser", "-test.timeout=0")
	cmd.Env = append(os.Environ(), postgresEnv+"="+pgtest.Start(t))
	cmd.SysProcAttr = redistest.DieWithParent()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := bytes.Count(out, []byte("--- PASS")); n < 10 {
		t.Errorf("%d tests ran", n)
	}
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
	if db, err = openDatabase(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	chats, err := (&Repository{db: db}).Chats(context.Background(), "u")
	if err != nil || len(chats) != 2 || chats[0].CreatedAt.Year() != 2026 {
		t.Errorf("got %v, %v", chats, err)
	}
}
