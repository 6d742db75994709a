package main

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"regexp"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// What the two databases do not have in common is here; they understand the same
// statements otherwise.

//go:embed migrations
var migrations embed.FS

// openDatabase opens what DATABASE_URL names, postgres://… or a path of an SQLite
// file, with or without sqlite://, and makes the tables that are missing.
func openDatabase(ctx context.Context, databaseURL string) (*sql.DB, error) {
	scheme, path, found := strings.Cut(databaseURL, "://")
	if !found {
		scheme, path = "sqlite", databaseURL
	}
	if notAPath.MatchString(path) || path == "" {
		return nil, errors.New("DATABASE_URL: postgres://…, sqlite://path or a path is accepted")
	}
	var db *sql.DB
	var err error
	dialect := goose.DialectSQLite3
	var options []goose.ProviderOption
	switch scheme {
	case "sqlite":
		db, err = sql.Open("sqlite", sqliteDSN(path))
	case "postgres", "postgresql":
		if db, err = sql.Open("pgx", databaseURL); err == nil {
			// Each connection is a process of the server: a hundred is its default.
			db.SetMaxOpenConns(20)
			db.SetMaxIdleConns(20)
			dialect = goose.DialectPostgres
			var one lock.SessionLocker // of all servers that start, one migrates
			one, err = lock.NewPostgresSessionLocker()
			options = append(options, goose.WithSessionLocker(one))
		}
	default:
		return nil, fmt.Errorf("DATABASE_URL: the scheme %q is not known; postgres://…, sqlite://path or a path is accepted", scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	if err = connect(ctx, db); err == nil {
		err = migrate(ctx, db, dialect, options...)
	}
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("DATABASE_URL: opening the database: %w", err)
	}
	return db, nil
}

// notAPath is how an address begins that is meant for something else: sqlite:path,
// or host=… password=….
var notAPath = regexp.MustCompile(`^[a-z]{2,}[:=]`)

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
	return err
}

// databaseName says which database DATABASE_URL names, without its secrets.
func databaseName(databaseURL string) string {
	if strings.HasPrefix(databaseURL, "postgres://") || strings.HasPrefix(databaseURL, "postgresql://") {
		return "PostgreSQL"
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
		*s.Time, err = time.Parse(time.RFC3339Nano, v)
	default:
		err = fmt.Errorf("a time is stored as %T", from)
	}
	return err
}
