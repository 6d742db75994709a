package main

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// What the two databases do not have in common is here; they understand the same
// statements otherwise.

//go:embed migrations
var migrations embed.FS

// openDatabase opens what DATABASE_URL names, a PostgreSQL, a file of SQLite or a
// database in memory, and makes the tables that are missing.
func openDatabase(ctx context.Context, databaseURL string) (*sql.DB, error) {
	d, err := parseDatabase(databaseURL)
	if err != nil {
		return nil, err
	}
	var db *sql.DB
	dialect := goose.DialectSQLite3
	var options []goose.ProviderOption
	if d.config != nil {
		// Each connection is a process of the server: a hundred is its default.
		db = sql.OpenDB(pgConnector{stdlib.GetConnector(*d.config)})
		db.SetMaxOpenConns(20)
		db.SetMaxIdleConns(20)
		dialect = goose.DialectPostgres
		one, err := lock.NewPostgresSessionLocker() // of all servers that start, one migrates
		if err != nil {
			db.Close()
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(one))
	} else {
		if db, err = sql.Open("sqlite", sqliteDSN(d.path)); err != nil {
			return nil, d.openError(err)
		}
		if d.path == inMemory {
			db.SetMaxOpenConns(1) // each connection would have a database of its own
		}
	}
	if err = connect(ctx, db); err == nil {
		err = migrate(ctx, db, dialect, options...)
	}
	if err != nil {
		db.Close()
		return nil, d.openError(err)
	}
	return db, nil
}

func sqliteDSN(path string) string {
	query := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(NORMAL)", "foreign_keys(1)"}, "_txlock": {"immediate"}}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}).String()
}

// connect makes the first connection. In SQLite it turns a new file to WAL, and where
// several servers do so at once it fails at once, whatever busy_timeout says.
func connect(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := db.PingContext(ctx)
		var failed *sqlite.Error
		if !errors.As(err, &failed) || failed.Code()&0xff != sqlite3.SQLITE_BUSY {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect, options ...goose.ProviderOption) error {
	dir, err := fs.Sub(migrations, "migrations/"+strings.TrimSuffix(string(dialect), "3"))
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(dialect, db, dir, options...)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	// SQLite has no lock for all migrations together: where several servers start at
	// once, one that another has done meanwhile fails, and is not seen the next time.
	for tries := 10; err != nil && tries > 0 && dialect == goose.DialectSQLite3 && ctx.Err() == nil; tries-- {
		_, err = provider.Up(ctx)
	}
	return err
}

// databaseName says which database DATABASE_URL names, without its secrets.
func databaseName(databaseURL string) string {
	switch d, _ := parseDatabase(databaseURL); {
	case d.config != nil:
		return "PostgreSQL"
	case d.path == inMemory:
		return "SQLite in memory"
	}
	return "SQLite"
}

// stamp is a time as both databases take and give it: text in SQLite, which sorts
// as the times do, and a timestamp in PostgreSQL.
const stamp = "2006-01-02T15:04:05.000000Z07:00"

type stampTo struct{ *time.Time }

func (s stampTo) Scan(from any) (err error) {
	switch v := from.(type) {
	case time.Time:
		*s.Time = v.UTC()
	case string:
		*s.Time, err = parseTime(v)
	default:
		err = fmt.Errorf("a time is stored as %T", from)
	}
	return err
}
