package main

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// This file has all differences between the two databases. The statements of Repository
// run on both.

//go:embed migrations
var migrations embed.FS

// openDatabase opens the database that DATABASE_URL names and applies the migrations that it
// lacks. The database is PostgreSQL, an SQLite file, or SQLite in memory.
func openDatabase(ctx context.Context, databaseURL string) (*sql.DB, error) {
	d, err := parseDatabase(databaseURL)
	if err != nil {
		return nil, err
	}
	var db *sql.DB
	dialect := goose.DialectSQLite3
	var options []goose.ProviderOption
	if d.config != nil {
		// Each connection is a process of the PostgreSQL server, which allows 100 by default,
		// for all chat servers together.
		db = sql.OpenDB(pgConnector{stdlib.GetConnector(*d.config)})
		db.SetMaxOpenConns(20)
		db.SetMaxIdleConns(20)
		dialect = goose.DialectPostgres
		one, err := lock.NewPostgresSessionLocker() // so that one of several starting servers migrates
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

// connect makes the first connection. In SQLite that switches a new file to WAL. When several
// servers do so at once, SQLite fails immediately and ignores busy_timeout, so connect retries.
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
	// SQLite has no lock around all migrations. When several servers start at once, a
	// migration fails that another server has applied meanwhile. The next attempt skips it.
	for tries := 10; err != nil && tries > 0 && dialect == goose.DialectSQLite3 && ctx.Err() == nil; tries-- {
		_, err = provider.Up(ctx)
	}
	return err
}

// databaseName returns the kind of database that DATABASE_URL names, for logs and pages. It
// shows no more of the URL, which may hold a password.
func databaseName(databaseURL string) string {
	switch d, _ := parseDatabase(databaseURL); {
	case d.config != nil:
		return "PostgreSQL"
	case d.path == inMemory:
		return "SQLite in memory"
	}
	return "SQLite"
}

// stamp is the layout in which times are written. PostgreSQL takes it for a timestamp.
// SQLite keeps it as text, which sorts as the times do: all are in UTC, with six digits of
// fraction.
const stamp = "2006-01-02T15:04:05.000000Z07:00"

// storedTime scans a time. If the time cannot be read, it is zero and err says why. Scan
// itself returns no error, since one such row would make its whole room unreadable.
type storedTime struct {
	time.Time
	err error
}

var (
	errYear     = errors.New("want a year from 0 to 9999") // time.Time has no JSON for others
	errTimeType = errors.New("want a time, as text or as seconds since 1970")
)

func (s *storedTime) Scan(from any) error {
	var t time.Time
	var err error
	switch v := from.(type) {
	case time.Time:
		t = v
	case string:
		t, err = parseStored(v)
	case []byte:
		t, err = parseStored(string(v))
	case int64:
		t, err = epoch(float64(v))
	case float64:
		t, err = epoch(v)
	default:
		err = errTimeType
	}
	if t = t.UTC(); err == nil && (t.Year() < 0 || t.Year() > 9999) {
		err = errYear
	}
	if err != nil {
		t = time.Time{}
	}
	*s = storedTime{t, err}
	return nil
}

// storedForm matches forms in which programs write times in SQLite and that parseTime does
// not take: without seconds or any time of day, with a blank before the zone, or with the
// zone's name.
var storedForm = regexp.MustCompile(`^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:\.\d{1,9})?)? ?(?:(Z|[+-]\d\d(?::?\d\d)?)(?: [A-Z]{3,5})?|UTC|GMT)?)?$`)

// storedEpoch is a number of seconds since 1970, as SQLite keeps it in a column of text.
// A shorter one may as well be a year or a date.
var storedEpoch = regexp.MustCompile(`^-?\d{9,11}(\.\d+)?$`)

func parseStored(text string) (time.Time, error) {
	if t, err := parseTime(text); err == nil {
		return t, nil
	}
	if storedEpoch.MatchString(text) {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return time.Time{}, errNotTime
		}
		return epoch(seconds)
	}
	if m := storedForm.FindStringSubmatch(text); m != nil {
		text = m[1] + "T" + cmp.Or(m[2], "00:00") + cmp.Or(m[3], ":00") + m[4]
	}
	return parseTime(text)
}

// epoch returns the time that is some seconds after 1970, to the microsecond.
func epoch(seconds float64) (time.Time, error) {
	if !(math.Abs(seconds) < 1e12) { // where the year is out of range in any case
		return time.Time{}, errYear
	}
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), 0).Add(time.Duration(math.Round(part*1e6)) * time.Microsecond), nil
}

// unreadable collects the ids of a table's rows with times that cannot be read.
type unreadable struct {
	ids []any
	err error // of the first
}

func (u *unreadable) add(id any, err error) {
	if err != nil {
		u.ids, u.err = append(u.ids, id), cmp.Or(u.err, err)
	}
}

// log writes one line for all rows, with the ids of the first twenty.
func (u *unreadable) log(ctx context.Context, table string) {
	if len(u.ids) > 0 {
		logger(ctx).WarnContext(ctx, "rows with a created_at that cannot be read", "table", table, "ids", u.ids[:min(len(u.ids), 20)], "rows", len(u.ids), "err", u.err)
	}
}
