package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The error for a wrong DATABASE_URL shows no part of it but its scheme.
func TestDatabaseURL_Refused(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://u:pw@hunter2@db.example/x":           "%40 for an @",
		"postgres://u:hunter2@hunter2@127.0.0.1:1/db":    "%40 for an @",
		"postgres://u:p@hunter2?x=y@h/db":                "%40 for an @",
		"postgres://u:p@ss/hunter2@h/db":                 "%40 for an @",
		"postgres://u:1234/hunter2@h/db":                 "%2F for a /",
		"postgres://hunter2/x@h/db":                      "%2F for a /",
		"postgres://u:1234?hunter2":                      "%3F for a ?",
		"postgres://u:hunter2":                           "a port from 1 to 65535",
		"postgres://u:pw@h:hunter2/db":                   "a port",
		"postgres://u:pw@h:70000/hunter2":                "a port from 1 to 65535",
		"postgres://u:hunter2@h:0/db":                    "a port from 1 to 65535",
		"postgres://u:pw@hunter2;x:1/db":                 "letters, digits",
		"postgres://u:100%hunter2@h/db":                  "%25 for a %",
		"postgres://u:hun ter2@h/db":                     "%20 for a blank",
		"postgres://u:hunter2@h/db#x":                    "%23",
		"postgres://u:hunter2@/db":                       "there is no host",
		"postgres://u:hunter2@:5432/db":                  "there is no host",
		"postgres://u:hunter2@h/db?sslmode=hunter2":      "sslmode: want",
		"postgres://u:hunter2@h/db?sslmode=":             "sslmode: want",
		"postgresql+asyncpg://u@h/db?ssl=hunter2":        "ssl: want disable",
		"postgres://u@h/db?ssl=require&sslmode=disable":  "sslmode: want",
		"postgres://u:hunter2@h/db?sslrootcert=/hunter2": "the driver does not take it",
		"postgres://u:hunter2@127.0.0.1:1/hunter2":       "connection refused",
		"postgresql+asyncpg://hunter2@127.0.0.1:1/db":    "connection refused",
		"postgres://u@hunter2..invalid/db":               "address was not found",
		"postgres://u@/db?host=/hunter2":                 "no such file",
		"mysql://u:hunter2@h/db":                         "the scheme mysql:// is unknown",
		"mysql://u:hunter2@h/db?x=y":                     "the scheme mysql:// is unknown",
		"hunter2\x00.db":                                 "the path of a file",
		"jdbc:postgresql://u:hunter2@h/db":               "want postgres://",
		"'postgres://u:hunter2@h/db'":                    "want postgres://",
		"host=h password=hunter2":                        "want postgres://",
		"u:hunter2@h/db":                                 "want postgres://",
		"user:hunter2@h/db":                              "want postgres://",
		"postgres:u:hunter2@h/db":                        "want postgres://",
		"sqlite:hunter2.db":                              "sqlite:///path",
		"file:hunter2.db":                                "sqlite:///path",
		"file:///hunter2.db":                             "the scheme file:// is unknown",
		"file::memory:?cache=shared":                     ":memory:",
		"sqlite:///file:hunter2?mode=ro":                 "no parameters",
		"sqlite:///hunter2.db?timeout=3":                 "no parameters",
		"sqlite://":                                      "there is no path",
		"sqlite:///":                                     "there is no path",
		"sqlite:///:memory":                              ":memory:",
		"sqlite:///hunter2/":                             "not of a directory",
		"sqlite:///no/such/hunter2.db":                   "sqlite:////path are not",
		"/no/such/hunter2.db":                            "directory does not exist",
		"/":                                              "not of a directory",
		"/tmp":                                           "directory or a device",
		"/dev/null/hunter2":                              "directory does not exist",
		"database_test.go":                               "not an SQLite database",
		"/proc/hunter2.db":                               "cannot be written",
	} {
		db, err := openDatabase(t.Context(), url)
		if err == nil {
			db.Close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), "DATABASE_URL") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// asyncpg's ssl is read as sslmode, also beside other parameters.
func TestDatabaseURL_TLSMode(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{
		"postgresql+asyncpg://u:p@h/db?ssl=require":                    true,
		"postgresql+asyncpg://u:p@h/db?ssl=disable":                    false,
		"postgres://h/db?application_name=x&ssl=require&search_path=y": true,
		"postgres://h/db?sslmode=require":                              true,
		"postgres://h/db?sslmode=disable":                              false,
		"postgres:///db?sslmode=disable":                               false, // on a socket
	} {
		d, err := parseDatabase(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if got := d.config.TLSConfig != nil; got != want || strings.Contains(url, "search_path") && (d.config.RuntimeParams["search_path"] != "y" || d.config.RuntimeParams["application_name"] != "x") {
			t.Errorf("%s: TLS %v, parameters %v", url, got, d.config.RuntimeParams)
		}
	}
}

// A server that refuses is not asked to say why in its own words, which have the
// user's and the database's names.
func TestDatabaseURL_RefusedByServer(t *testing.T) {
	t.Parallel()
	server := os.Getenv(postgresEnv)
	if server == "" {
		return // TestOverPostgreSQL
	}
	for url, want := range map[string]string{
		strings.Replace(server, "/postgres?", "/hunter2?", 1):   "SQLSTATE 3D000",
		strings.Replace(server, "//postgres@", "//hunter2@", 1): "SQLSTATE 28000",
		server + "&hunter2=1": "SQLSTATE 42704",
	} {
		if _, err := openDatabase(t.Context(), url); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v; want %s", err, want)
		}
	}
}

// Each form of an SQLite path opens the file that it names. Not parallel, for it changes
// the working directory.
func TestDatabaseURL_SQLite(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("sub", 0o700); err != nil {
		t.Fatal(err)
	}
	for i, form := range []string{"%s", "./%s", "sub/../%s", "sqlite://%s", "sqlite://./%s", "sqlite:///%s", "sqlite:///./%s", "SQLite+aiosqlite:///%s", dir + "/%s", "sqlite:///" + dir + "/%s", "sqlite:////" + dir + "/%s"} {
		name := fmt.Sprintf("x%d #%%20.db", i)
		db, err := openDatabase(t.Context(), fmt.Sprintf(form, name))
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		db.Close()
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s: %v", form, err)
		}
	}
}

// A database in memory is one database for all, and outlives a request that is given up.
func TestDatabase_InMemory(t *testing.T) {
	t.Parallel()
	for _, url := range []string{":memory:", "sqlite:///:memory:", "sqlite://:memory:"} {
		c := serverOn(t, map[string]string{"CACHE_TYPE": "memory", "DATABASE_URL": url})
		chat, err := c.repo.CreateChat(t.Context(), "u", "t")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				if i%3 == 0 {
					ctx, cancel := context.WithCancel(t.Context())
					go cancel()
					if _, err := c.repo.AddMessage(ctx, chat.ID, "user", "x"); err != nil && !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				if _, err := c.repo.AddMessage(t.Context(), chat.ID, "user", "x"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		messages, err := c.repo.selectMessages(t.Context(), chat.ID)
		if err != nil || len(messages) < 40 {
			t.Errorf("%s: %d messages, %v", url, len(messages), err)
		}
	}
}
