package settings

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"github.com/redis/go-redis/v9"
)

// URL is a URL that was read. Each part of its text is in it, or an error.
type URL struct {
	Addr               string // host:port, or the path of a socket
	Host               string // "" of a socket
	DB                 int
	Username, Password string
	TLS                bool
	skipVerify         bool // of any certificate
	skipHostname       bool // of a certificate for any host
	rootCAs            *x509.CertPool
	Query              redis.UniversalOptions // the parameters that go-redis has an option for
	Ignored            []string               // names of parameters that say nothing to this client
	NeedsTLS           string                 // name of a parameter that means nothing without TLS, if any
}

// ParseURL reads a URL. Its errors name the part that is wrong, and show no text
// but the names of parameters and schemes, as any other part may hold a secret. The
// names of settings that they refer to come from name.
func ParseURL(text string, name func(field string) string) (*URL, error) {
	text = strings.TrimSpace(text)
	if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar }) {
		return nil, errors.New("there is white space, or a control character, inside: one URL without them is accepted; a blank in a password is %20")
	}
	scheme, rest, found := strings.Cut(text, "://")
	scheme = strings.ToLower(scheme)
	u := &URL{}
	switch {
	case !found || strings.ContainsAny(scheme, ":@,=/"):
		if IsConnectionString(text) {
			return nil, ErrConnectionString(name)
		}
		return nil, errors.New("scheme: a URL that starts with redis://, rediss:// (TLS) or unix:// is accepted, slashes included")
	case scheme == "redis" || scheme == "unix":
	case scheme == "rediss":
		u.TLS = true
	default:
		return nil, errScheme(scheme, name)
	}
	if strings.Contains(rest, "#") {
		return nil, errors.New(`a "#" would begin a fragment, which no Redis has: in a password, "%23" is accepted`)
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	if strings.Contains(path, "@") || strings.Contains(query, "@") {
		return nil, errors.New(`there is an "@" behind the host: in a password, "%2F" is accepted for "/", "%3F" for "?", "%23" for "#", "%40" for "@" and "%25" for "%"`)
	}
	server := authority
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		server = authority[i+1:]
		username, password, _ := strings.Cut(authority[:i], ":")
		var errs [2]error
		u.Username, errs[0] = url.PathUnescape(username)
		u.Password, errs[1] = url.PathUnescape(password)
		if errors.Join(errs[:]...) != nil {
			return nil, errors.New(`user or password: a "%" that begins no escape; "%25" is accepted for "%"`)
		}
	}
	var err error
	if scheme == "unix" {
		err = u.setSocket(server, path)
	} else if err = u.setServer(server, name); err == nil {
		err = u.setDB(strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/"))
	}
	if err != nil {
		return nil, err
	}
	return u, u.setQuery(query, len(path) > 1 && scheme != "unix")
}

// errScheme returns what to use in place of a URL with a scheme that is not accepted.
func errScheme(scheme string, name func(string) string) error {
	also := ""
	if strings.HasPrefix(scheme, "rediss") || strings.HasPrefix(scheme, "valkeys") {
		also = ", " + name("TLS") + "=true"
	}
	switch {
	case strings.Contains(scheme, "sentinel"):
		return fmt.Errorf("scheme: a URL names one server; for Sentinels set %s=h1:26379,h2:26379 (the Sentinels), %s=<name of the master>%s and %s in its place", name("Hosts"), name("SentinelMaster"), also, name("Password"))
	case strings.Contains(scheme, "cluster"):
		return fmt.Errorf("scheme: a URL names one server; for a Cluster set %s=true beside the redis:// or rediss:// of one of its hosts, or in its place %s=h1:6379,h2:6379%s and %s", name("Cluster"), name("Hosts"), also, name("Password"))
	case strings.Contains(scheme, "socket"), strings.Contains(scheme, "+unix"):
		return errors.New("scheme: for a socket, unix:///path/to/socket?db=0 is accepted")
	case strings.Contains(scheme, "ssl"), strings.Contains(scheme, "tls"), strings.HasPrefix(scheme, "valkeys"):
		return errors.New("scheme: for TLS, rediss:// is accepted")
	case strings.ContainsAny(scheme[:min(1, len(scheme))], "\"'`"):
		return errors.New("scheme: redis://, rediss:// (TLS) or unix:// is accepted, without quotes around the URL")
	}
	return errors.New("scheme: redis://, rediss:// (TLS) or unix:// is accepted")
}

// HasUser reports whether the URL says as whom to connect: as the default user, without a
// password, is what a URL without both says too.
func (u *URL) HasUser() bool {
	return u.Password != "" || u.Username != "" && u.Username != "default"
}

func (u *URL) setSocket(server, path string) error {
	path, err := url.PathUnescape(path)
	if server != "" || err != nil || len(path) < 2 || strings.ContainsFunc(path, unicode.IsControl) {
		return errors.New("path: a socket's absolute path, as in unix:///path/to/socket or unix://user:password@/path/to/socket, is accepted")
	}
	u.Addr = path
	return nil
}

func (u *URL) setServer(server string, name func(string) string) error {
	switch {
	case IsConnectionString(server):
		return ErrConnectionString(name)
	case strings.Contains(server, ","):
		return fmt.Errorf("host: a URL names one server; for several set %s=h1:6379,h2:6379 in its place (a Cluster, or with %s the Sentinels)", name("Hosts"), name("SentinelMaster"))
	case strings.Count(server, ":") > 1 && server[0] != '[':
		return errors.New("host: with more than one colon, only an IPv6 address in brackets is accepted, as in redis://[::1]:6379/0")
	case server == "" || server[0] == ':':
		return errors.New("host: there is none, perhaps since a variable in the URL was empty; redis://host:6379/0, of this machine redis://localhost:6379/0, is accepted")
	}
	if server[0] == '[' {
		server = strings.Replace(server, "%25", "%", 1) // in front of a zone
	}
	host, port, err := SplitHost(server)
	if err != nil {
		return err
	}
	if port == 0 {
		port = 6379
	}
	u.Host, u.Addr = host, net.JoinHostPort(host, strconv.Itoa(port))
	return nil
}

func (u *URL) setDB(text string) error {
	if text == "" {
		return nil
	}
	n, err := Int(0, math.MaxInt32)(text)
	if err != nil || text[0] == '+' {
		return errors.New("database: behind the host, a number from 0 is accepted, as in redis://host:6379/0")
	}
	u.DB = int(n)
	return nil
}

// PasswordForm returns how a URL like u has a password without a user name.
func (u *URL) PasswordForm() string {
	switch {
	case u.Host == "":
		return "unix://:password@/path/to/socket"
	case u.TLS:
		return "rediss://:password@host"
	}
	return "redis://:password@host"
}

// Secure lets c verify the server as the URL says.
func (u *URL) Secure(c *tls.Config) {
	if u.rootCAs != nil {
		c.RootCAs = u.rootCAs
	}
	if u.skipVerify || u.skipHostname {
		c.InsecureSkipVerify = true
	}
	if !u.skipHostname || u.skipVerify {
		return
	}
	roots, next := c.RootCAs, c.VerifyConnection
	c.VerifyConnection = func(state tls.ConnectionState) error { // as crypto/tls does, but for the name
		opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, cert := range state.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		if _, err := state.PeerCertificates[0].Verify(opts); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		if next != nil {
			return next(state)
		}
		return nil
	}
}
