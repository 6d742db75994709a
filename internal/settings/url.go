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

// URL is the URL of a Redis, as [ParseURL] returns it. Each part of the text is in one of its
// fields: ParseURL returns an error for a part that has no place in them, so that no part is
// ignored in silence.
type URL struct {
	Addr               string // host:port, or the path of a socket
	Host               string // without the port; "" for a socket
	DB                 int
	Username, Password string
	TLS                bool
	skipVerify         bool                   // accept any certificate
	skipHostname       bool                   // verify the certificate, but not the host that it names
	rootCAs            *x509.CertPool         // verify against these; nil means those of the system
	Query              redis.UniversalOptions // the parameters that go-redis has an option for
	Ignored            []string               // names of other clients' parameters, without effect here
	NeedsTLS           string                 // name of a parameter that only has a meaning with TLS, or ""
}

// ParseURL parses redis://, rediss:// and unix:// URLs in the forms of go-redis and of
// redis-py. It does not use [url.Parse], because that quotes the URL in its errors.
//
// Its errors name the part that is wrong, and show no text but the names of parameters: any
// other part may hold a secret. Where an error recommends another setting, name returns the
// name to use, given its field: that of the variable if the URL is from the environment.
func ParseURL(text string, name func(field string) string) (*URL, error) {
	text = strings.TrimSpace(text)
	if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar }) {
		return nil, errors.New("white space or a control character in it; want one URL without them, and %20 for a blank in a password")
	}
	scheme, rest, found := strings.Cut(text, "://")
	scheme = strings.ToLower(scheme)
	u := &URL{}
	switch {
	case !found || strings.ContainsAny(scheme, ":@,=/"):
		if IsConnectionString(text) {
			return nil, ErrConnectionString(name)
		}
		return nil, errors.New("scheme: want a URL that starts with redis://, rediss:// (TLS) or unix://, slashes included")
	case scheme == "redis" || scheme == "unix":
	case scheme == "rediss":
		u.TLS = true
	default:
		return nil, errScheme(scheme, name)
	}
	if strings.Contains(rest, "#") {
		return nil, errors.New(`a "#" begins a fragment, which the URL of a Redis cannot have; want "%23" in a password`)
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	// If a password has a "/" or a "?" that is not escaped, the URL is cut there, and the rest of
	// the password is in the path or the query, together with the "@" behind it.
	if strings.Contains(path, "@") || strings.Contains(query, "@") {
		return nil, errors.New(`an "@" behind the host; in a password, want "%2F" for "/", "%3F" for "?", "%23" for "#", "%40" for "@" and "%25" for "%"`)
	}
	server := authority
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		server = authority[i+1:]
		username, password, _ := strings.Cut(authority[:i], ":")
		var errs [2]error
		u.Username, errs[0] = url.PathUnescape(username)
		u.Password, errs[1] = url.PathUnescape(password)
		if errors.Join(errs[:]...) != nil {
			return nil, errors.New(`user or password: a "%" that begins no escape; want "%25" for "%"`)
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

// errScheme returns the error for a scheme that is not accepted. For the schemes of other
// clients it says which settings have the same effect. It shows nothing of the scheme, which
// is the beginning of a password where the text is no URL.
func errScheme(scheme string, name func(string) string) error {
	also := ""
	if strings.HasPrefix(scheme, "rediss") || strings.HasPrefix(scheme, "valkeys") {
		also = ", " + name("TLS") + "=true"
	}
	switch {
	case strings.Contains(scheme, "sentinel"):
		return fmt.Errorf("scheme: a URL names one server; for Sentinels set %s=h1:26379,h2:26379 (the Sentinels), %s=<name of the master>%s and %s instead", name("Hosts"), name("SentinelMaster"), also, name("Password"))
	case strings.Contains(scheme, "cluster"):
		return fmt.Errorf("scheme: a URL names one server; for a Cluster set %s=true beside the redis:// or rediss:// URL of one of its hosts, or %s=h1:6379,h2:6379%s and %s instead", name("Cluster"), name("Hosts"), also, name("Password"))
	case strings.Contains(scheme, "socket"), strings.Contains(scheme, "+unix"):
		return errors.New("scheme: want unix:///path/to/socket?db=0 for a socket")
	case strings.Contains(scheme, "ssl"), strings.Contains(scheme, "tls"), strings.HasPrefix(scheme, "valkeys"):
		return errors.New("scheme: want rediss:// for TLS")
	case strings.ContainsAny(scheme[:min(1, len(scheme))], "\"'`"):
		return errors.New("scheme: want redis://, rediss:// (TLS) or unix://, without quotes around the URL")
	}
	return errors.New("scheme: want redis://, rediss:// (TLS) or unix://")
}

// HasUser reports whether the URL names a user or has a password. The default user without a
// password does not count, as a URL with neither means the same.
func (u *URL) HasUser() bool {
	return u.Password != "" || u.Username != "" && u.Username != "default"
}

// setSocket sets the address of a unix:// URL, which is its path and may have escapes.
func (u *URL) setSocket(server, path string) error {
	path, err := url.PathUnescape(path)
	if server != "" || err != nil || len(path) < 2 || strings.ContainsFunc(path, unicode.IsControl) {
		return errors.New("path: want the absolute path of a socket, as in unix:///path/to/socket or unix://user:password@/path/to/socket")
	}
	u.Addr = path
	return nil
}

// setServer sets the host and the port. It refuses a list of hosts, which some clients accept
// here, as the list does not tell the nodes of a Cluster from Sentinels.
func (u *URL) setServer(server string, name func(string) string) error {
	switch {
	case IsConnectionString(server):
		return ErrConnectionString(name)
	case strings.Contains(server, ","):
		return fmt.Errorf("host: a URL names one server; for several set %s=h1:6379,h2:6379 instead (a Cluster, or with %s the Sentinels)", name("Hosts"), name("SentinelMaster"))
	case strings.Count(server, ":") > 1 && server[0] != '[':
		return errors.New("host: more than one colon; want an IPv6 address in brackets, as in redis://[::1]:6379/0")
	case server == "" || server[0] == ':':
		return errors.New("host: there is none, perhaps because a variable in the URL was empty; want redis://host:6379/0, or redis://localhost:6379/0 for this machine")
	}
	if server[0] == '[' {
		server = strings.Replace(server, "%25", "%", 1) // the escape in front of a zone, as in RFC 6874
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

// setDB sets the database from the text of a path or of the parameter db. Empty means 0.
func (u *URL) setDB(text string) error {
	if text == "" {
		return nil
	}
	n, err := Int(0, math.MaxInt32)(text)
	if err != nil || text[0] == '+' {
		return errors.New("database: want a number from 0 behind the host, as in redis://host:6379/0")
	}
	u.DB = int(n)
	return nil
}

// PasswordForm returns the form that u would have with a password and no user name, for an
// error about a user name alone: many people write the password where the user name belongs.
func (u *URL) PasswordForm() string {
	switch {
	case u.Host == "":
		return "unix://:password@/path/to/socket"
	case u.TLS:
		return "rediss://:password@host"
	}
	return "redis://:password@host"
}

// Secure changes c so that it verifies the server's certificate as the URL's parameters
// demand. A VerifyConnection of c's own is still called. With ssl_check_hostname=false the
// chain is verified and the name is not, for which crypto/tls has no setting, so c gets a
// function that does so.
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
	c.VerifyConnection = func(state tls.ConnectionState) error { // as crypto/tls, without the name
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
