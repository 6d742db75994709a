package main

import (
	"context"
	"crypto/tls"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// No error and no log line shows more of DATABASE_URL than its scheme. A password
// with an unescaped character is taken for a host, a port or a database's name, and
// the drivers show those in their errors.

// database is a DATABASE_URL that was read: config of PostgreSQL, or path of SQLite,
// which is inMemory for a database that ends with the process.
type database struct {
	config *pgx.ConnConfig
	path   string
}

const inMemory = ":memory:"

const wantDatabase = "want postgres://user:password@host:5432/database, an SQLite file as path or sqlite:///path, or " + inMemory + " for one in memory"

var (
	schemeName = regexp.MustCompile(`^[a-z][a-z0-9+.-]{0,30}$`)
	// Beginnings of an address that is meant for something else: sqlite:path, file:path,
	// host=… password=…, or user:password@host.
	notAPath = regexp.MustCompile(`(?i)^([a-z][a-z0-9+.-]+[:=]|[^/]*:[^/]*@)`)
	// One of the hosts of a PostgreSQL: a name, perhaps with escapes as of a socket's
	// directory, or an IPv6 address in brackets, and a port.
	pgHost = regexp.MustCompile(`^(\[[0-9A-Za-z:.%]+\]|[\p{L}\p{N}._%-]*)(?::([0-9]*))?$`)
)

func parseDatabase(databaseURL string) (database, error) {
	scheme, rest, found := strings.Cut(databaseURL, "://")
	if !found {
		return parsePath(databaseURL)
	}
	scheme = strings.ToLower(scheme)
	kind, _, _ := strings.Cut(scheme, "+") // postgresql+asyncpg and sqlite+aiosqlite are SQLAlchemy's
	switch {
	case kind == "postgres" || kind == "postgresql":
		return parsePostgres(rest)
	case kind == "sqlite" && strings.Contains(rest, "?"):
		return database{}, errors.New("DATABASE_URL: sqlite:// takes no parameters: remove the ? and the rest, or write a path with a ? in it without sqlite://")
	case kind == "sqlite":
		// As in SQLAlchemy, the path begins after the third slash.
		return parsePath(strings.TrimPrefix(rest, "/"))
	case schemeName.MatchString(scheme):
		return database{}, fmt.Errorf("DATABASE_URL: the scheme %s:// is unknown: %s", scheme, wantDatabase)
	}
	return database{}, errors.New("DATABASE_URL: " + wantDatabase)
}

func parsePath(path string) (database, error) {
	switch {
	case path == inMemory:
		return database{path: path}, nil
	case path == "":
		return database{}, errors.New("DATABASE_URL: there is no path: " + wantDatabase)
	case strings.HasSuffix(path, "/") || strings.ContainsRune(path, 0):
		return database{}, errors.New("DATABASE_URL: want the path of a file, not of a directory")
	case notAPath.MatchString(path) || strings.HasPrefix(path, ":"):
		return database{}, errors.New("DATABASE_URL: " + wantDatabase)
	}
	return database{path: filepath.Clean(path)}, nil
}

// parsePostgres reads the part of a URL after postgres://. It refuses the URLs that
// libpq's grammar, which is the driver's, takes in another way than they are meant.
func parsePostgres(rest string) (database, error) {
	bad := func(format string, args ...any) (database, error) {
		return database{}, fmt.Errorf("DATABASE_URL: "+format, args...)
	}
	userinfo, address, hasUser := strings.Cut(rest, "@")
	if !hasUser {
		userinfo, address = "", rest
	}
	hosts, path := address, ""
	if i := strings.IndexAny(address, "/?"); i >= 0 {
		hosts, path = address[:i], address[i:]
	}
	_, query, _ := strings.Cut(path, "?")
	switch {
	case strings.ContainsFunc(rest, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return bad("it has a blank or a control character: want %%20 for a blank in the password")
	case strings.Contains(address, "@"):
		return bad("it has more than one @: want %%40 for an @ in the user's name, in the password or after the host")
	case strings.Contains(userinfo, "/"):
		return bad("it has a / before the @: want %%2F for a / in the password, and %%40 for an @ after the host")
	case strings.Contains(address, "#"):
		return bad("it has a #: want %%23")
	}
	if _, err := url.PathUnescape(rest); err != nil {
		return bad("it has a %% without two hexadecimal digits: want %%25 for a %% in the password")
	}
	hasHost := false
	for host := range strings.SplitSeq(hosts, ",") {
		m := pgHost.FindStringSubmatch(host)
		if m == nil {
			return bad("want user:password@host:port, with a host of letters, digits, dots and dashes, a port from 1 to 65535, and %%3A, %%2F and %%40 for a :, / and @ in the password")
		}
		if port, err := strconv.Atoi(m[2]); m[2] != "" && (err != nil || port < 1 || port > 65535) {
			return bad("want a port from 1 to 65535")
		}
		hasHost = hasHost || m[1] != ""
	}
	params, modes := strings.Split(query, "&"), 0
	for i, param := range params {
		name, value, ok := strings.Cut(param, "=")
		if !ok && query != "" {
			return bad("want name=value after the ?, and %%3F for a ? in the password")
		}
		hasHost = hasHost || (name == "host" || name == "hostaddr") && value != ""
		if name == "ssl" || name == "sslmode" { // ssl is asyncpg's name for it
			if modes++; modes > 1 || !strings.Contains(" disable allow prefer require verify-ca verify-full ", " "+value+" ") {
				return bad("%s: want disable, allow, prefer, require, verify-ca or verify-full, and once", name)
			}
			params[i] = "sslmode=" + value
		}
	}
	rest = strings.TrimSuffix(rest, query) + strings.Join(params, "&")
	if hasUser && !hasHost {
		return bad("there is no host: want one after the @, or a socket's directory as ?host=/path")
	}
	config, err := pgx.ParseConfig("postgres://" + rest)
	if err != nil {
		return bad("the driver does not take it: want postgres://user:password@host:5432/database, and after a ? only its parameters, as sslmode, with files that can be read")
	}
	return database{config: config}, nil
}

// pgConnector makes connections, with errors that show nothing of DATABASE_URL.
type pgConnector struct{ driver.Connector }

func (c pgConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, connectError{err}
	}
	return conn, nil
}

type connectError struct{ err error }

func (e connectError) Error() string { return "connecting to PostgreSQL: " + pgReason(e.err) }

// Is finds that a context has ended. There is no Unwrap, since the error in it shows
// more than it should.
func (e connectError) Is(target error) bool {
	return (target == context.Canceled || target == context.DeadlineExceeded) && errors.Is(e.err, target)
}

// pgReason says why PostgreSQL does not serve, in words that are not from its address.
func pgReason(err error) string {
	var refused *pgconn.PgError
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	var number syscall.Errno
	switch {
	case errors.As(err, &refused):
		text := map[string]string{
			"28P01": "the password or the user is wrong", "28000": "the server does not let this user in from here",
			"3D000": "the database does not exist", "53300": "the server has too many connections",
			"57P03": "the server is starting or stopping", "42501": "the user lacks a permission",
			"42704": "a parameter after the ? is unknown", "22023": "a parameter after the ? is wrong",
		}[refused.Code]
		return strings.TrimSpace(text + " (SQLSTATE " + refused.Code + ")")
	case errors.As(err, &name):
		return "the host's address was not found"
	case errors.As(err, &certificate):
		return "the server's certificate is not one to trust for this host"
	case strings.Contains(err.Error(), "refused TLS"):
		return "the server does not use TLS"
	case errors.As(err, &number):
		return number.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "it was cancelled"
	}
	return "the connection failed"
}

// openError says why the database was not opened.
func (d database) openError(err error) error {
	var refused *pgconn.PgError
	var failed *sqlite.Error
	var broken *net.OpError
	var reason string
	switch {
	case errors.As(err, &refused), errors.As(err, &broken):
		reason = pgReason(err)
	case errors.As(err, &failed):
		reason = d.fileReason(failed)
	default:
		return fmt.Errorf("DATABASE_URL: opening the database: %w", err)
	}
	return errors.New("DATABASE_URL: opening the database: " + reason)
}

// fileReason says why SQLite does not open the file, which it does not say well.
func (d database) fileReason(err *sqlite.Error) string {
	const forms = ": path and sqlite:///path are relative to the working directory, /path and sqlite:////path are not"
	switch err.Code() & 0xff {
	case sqlite3.SQLITE_NOTADB:
		return "the file is not an SQLite database"
	case sqlite3.SQLITE_BUSY:
		return "another program holds the file's lock"
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		if info, err := os.Stat(d.path); err == nil && !info.Mode().IsRegular() {
			return "it is a directory or a device: want the path of a file"
		}
		if info, err := os.Stat(filepath.Dir(d.path)); err != nil || !info.IsDir() {
			return "the file's directory does not exist" + forms
		}
		return "the file, or its directory, in which SQLite makes more files, cannot be written"
	}
	return err.Error()
}
