package settings

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
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
	skipVerify         bool
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
		return fmt.Errorf("scheme: a URL names one server; for Sentinels set %s=h1:26379,h2:26379, %s=<name of the master>%s, and %s", name("Hosts"), name("SentinelMaster"), also, name("Password"))
	case strings.Contains(scheme, "cluster"):
		return fmt.Errorf("scheme: a URL names one server; for a Cluster set %s=h1:6379,h2:6379, or one host and %s=true%s, and %s", name("Hosts"), name("Cluster"), also, name("Password"))
	case strings.Contains(scheme, "socket"), strings.Contains(scheme, "+unix"):
		return errors.New("scheme: for a socket, unix:///path/to/socket?db=0 is accepted")
	case strings.Contains(scheme, "ssl"), strings.Contains(scheme, "tls"), strings.HasPrefix(scheme, "valkeys"):
		return errors.New("scheme: for TLS, rediss:// is accepted")
	}
	return errors.New("scheme: redis://, rediss:// (TLS) or unix:// is accepted, without quotes around the URL")
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

// setQuery takes the parameters of go-redis, and those of redis-py that mean something
// here. None is dropped in silence.
func (u *URL) setQuery(query string, hasDB bool) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New(`query: parameters like ?read_timeout=3s&pool_size=20 are accepted, with "%26" for "&" and "%25" for "%" in their values`)
	}
	path := u.DB
	seen := make(map[string]string)
	for _, key := range slices.Sorted(maps.Keys(values)) {
		p, ok := urlParams[key]
		if !ok && slices.Contains(ignoredParams, key) {
			u.Ignored = append(u.Ignored, key)
			continue
		}
		if !ok && slices.Contains(tlsFileParams, key) {
			return fmt.Errorf("parameter %s: it is not accepted in a URL: set Config.Redis.TLSConfig", key)
		}
		if !ok && !isParamName(key) {
			return errors.New("query: there is a parameter of an unknown name; those of go-redis and redis-py are accepted")
		}
		if !ok {
			return fmt.Errorf("parameter %s: it is not known; those of go-redis, such as read_timeout, and of redis-py, such as socket_timeout, are accepted", key)
		}
		if other, ok := seen[p.as(key)]; ok || len(values[key]) > 1 {
			if !ok {
				other = key
			}
			return fmt.Errorf("parameter %s: it says the same as another (%s); one of them, given once, is accepted", key, other)
		}
		seen[p.as(key)] = key
		if slices.Contains(tlsParams, key) {
			u.NeedsTLS = key
		}
		if text := values.Get(key); text != "" && !p.set(u, text) {
			return fmt.Errorf("parameter %s: %s is accepted", key, p.accepted)
		}
	}
	if hasDB && path != u.DB {
		return errors.New("database: the path and the parameter db name different ones; one of them is accepted")
	}
	u.Query.ConnMaxLifetimeJitter = min(u.Query.ConnMaxLifetimeJitter, max(0, u.Query.ConnMaxLifetime))
	return nil
}

var paramName = regexp.MustCompile(`^[A-Za-z_.-]{1,40}$`)

func isParamName(key string) bool {
	return paramName.MatchString(key)
}

// ignoredParams are of other clients, and say nothing to this one.
var ignoredParams = []string{
	"decode_responses", "encoding", "encoding_errors", "health_check_interval", "lib_name", "lib_version", "retry_on_error", "retry_on_timeout",
	"single_connection_client", "socket_keepalive", "socket_read_size", "ssl_check_hostname", "timeout", // redis-py
	"family", "allowUsernameInURI", // ioredis
}

var tlsFileParams = []string{"ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_keyfile_password", "ssl_ca_path", "ssl_ca_data", "ssl_min_version", "ssl_ciphers"}

type urlParam struct {
	alias    string // the parameter that says the same, if any
	accepted string
	set      func(u *URL, text string) bool
}

func (p urlParam) as(key string) string {
	if p.alias != "" {
		return p.alias
	}
	return key
}

func (p urlParam) aliasOf(key string) urlParam {
	p.alias = key
	return p
}

// urlParams are bounded, as go-redis panics on some numbers and takes memory for others.
var urlParams = func() map[string]urlParam {
	number := func(low, high int64, field func(o *redis.UniversalOptions) *int) urlParam {
		return urlParam{accepted: fmt.Sprintf("a whole number from %d to %d", low, high), set: func(u *URL, text string) bool {
			n, err := Int(low, high)(text)
			*field(&u.Query) = int(n)
			return err == nil
		}}
	}
	truth := func(field func(u *URL) *bool) urlParam {
		return urlParam{accepted: "true or false", set: func(u *URL, text string) (ok bool) {
			v, err := Bool(text)
			*field(u) = v
			return err == nil
		}}
	}
	duration := func(fields func(o *redis.UniversalOptions) []*time.Duration) urlParam {
		return urlParam{accepted: "seconds (3) or a duration (500ms), 0 for no limit,", set: func(u *URL, text string) bool {
			d, err := Duration(-maxDuration, maxDuration)(text)
			if d <= 0 {
				d = -1 // go-redis's for no limit
			}
			for _, field := range fields(&u.Query) {
				*field = d
			}
			return err == nil
		}}
	}
	wait := func(field func(o *redis.UniversalOptions) *time.Duration) urlParam {
		return urlParam{accepted: "seconds (3) or a duration (500ms), from 1ms,", set: func(u *URL, text string) bool {
			d, err := Duration(time.Millisecond, maxDuration)(text)
			*field(&u.Query) = d
			return err == nil
		}}
	}
	type options = redis.UniversalOptions
	one := func(field func(o *options) *time.Duration) func(o *options) []*time.Duration {
		return func(o *options) []*time.Duration { return []*time.Duration{field(o)} }
	}
	const conns, bytes = 10000, 64 << 20
	poolSize := number(0, conns, func(o *options) *int { return &o.PoolSize })
	dial := wait(func(o *options) *time.Duration { return &o.DialTimeout })
	idle := duration(one(func(o *options) *time.Duration { return &o.ConnMaxIdleTime }))
	lifetime := duration(one(func(o *options) *time.Duration { return &o.ConnMaxLifetime }))
	return map[string]urlParam{
		"db":       {accepted: "a whole number from 0", set: func(u *URL, text string) bool { return u.setDB(text) == nil }},
		"protocol": number(2, 3, func(o *options) *int { return &o.Protocol }),
		"client_name": {accepted: "up to 100 printable ASCII characters without blanks", set: func(u *URL, text string) bool {
			u.Query.ClientName = text
			return len(text) <= 100 && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
		}},
		"username":                   {accepted: "a name, where none stands in front of the host,", set: setOnce(func(u *URL) *string { return &u.Username })},
		"password":                   {accepted: "a password, where none stands in front of the host,", set: setOnce(func(u *URL) *string { return &u.Password })},
		"max_retries":                number(-1, 100, func(o *options) *int { return &o.MaxRetries }),
		"min_retry_backoff":          duration(one(func(o *options) *time.Duration { return &o.MinRetryBackoff })),
		"max_retry_backoff":          duration(one(func(o *options) *time.Duration { return &o.MaxRetryBackoff })),
		"dial_timeout":               dial,
		"socket_connect_timeout":     dial.aliasOf("dial_timeout"),
		"read_timeout":               duration(one(func(o *options) *time.Duration { return &o.ReadTimeout })),
		"write_timeout":              duration(one(func(o *options) *time.Duration { return &o.WriteTimeout })),
		"socket_timeout":             duration(func(o *options) []*time.Duration { return []*time.Duration{&o.ReadTimeout, &o.WriteTimeout} }).aliasOf("read_timeout"),
		"pool_fifo":                  truth(func(u *URL) *bool { return &u.Query.PoolFIFO }),
		"pool_size":                  poolSize,
		"max_connections":            poolSize.aliasOf("pool_size"),
		"pool_timeout":               wait(func(o *options) *time.Duration { return &o.PoolTimeout }),
		"min_idle_conns":             number(0, conns, func(o *options) *int { return &o.MinIdleConns }),
		"max_idle_conns":             number(0, conns, func(o *options) *int { return &o.MaxIdleConns }),
		"max_active_conns":           number(0, conns, func(o *options) *int { return &o.MaxActiveConns }),
		"max_concurrent_dials":       number(0, conns, func(o *options) *int { return &o.MaxConcurrentDials }),
		"pipeline_pool_size":         number(-1, conns, func(o *options) *int { return &o.PipelinePoolSize }),
		"pipeline_read_buffer_size":  number(0, bytes, func(o *options) *int { return &o.PipelineReadBufferSize }),
		"pipeline_write_buffer_size": number(0, bytes, func(o *options) *int { return &o.PipelineWriteBufferSize }),
		"conn_max_idle_time":         idle,
		"idle_timeout":               idle.aliasOf("conn_max_idle_time"),
		"conn_max_lifetime":          lifetime,
		"max_conn_age":               lifetime.aliasOf("conn_max_lifetime"),
		"conn_max_lifetime_jitter":   duration(one(func(o *options) *time.Duration { return &o.ConnMaxLifetimeJitter })),
		"skip_verify":                truth(func(u *URL) *bool { return &u.skipVerify }),
		"ssl_cert_reqs": urlParam{accepted: "none (any certificate), optional or required (both verify, as in Python's clients)", set: func(u *URL, text string) bool {
			text = strings.TrimPrefix(strings.ToLower(text), "cert_")
			u.skipVerify = text == "none"
			return text == "none" || text == "optional" || text == "required"
		}}.aliasOf("skip_verify"),
		"ssl_ca_certs": {accepted: "the path of a file of PEM certificates", set: func(u *URL, text string) bool {
			info, err := os.Stat(text)
			if err != nil || !info.Mode().IsRegular() || info.Size() > bytes {
				return false
			}
			data, err := os.ReadFile(text)
			u.rootCAs = x509.NewCertPool()
			return err == nil && u.rootCAs.AppendCertsFromPEM(data)
		}},
	}
}()

// tlsParams are refused where there is no TLS, as they are by go-redis and redis-py.
var tlsParams = []string{"skip_verify", "ssl_cert_reqs", "ssl_ca_certs"}

func setOnce(field func(u *URL) *string) func(u *URL, text string) bool {
	return func(u *URL, text string) bool {
		if f := field(u); *f == "" || *f == text {
			*f = text
			return true
		}
		return false
	}
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
	if u.skipVerify {
		c.InsecureSkipVerify = true
	}
	if u.rootCAs != nil {
		c.RootCAs = u.rootCAs
	}
}

var errHost = errors.New("host: a name of letters, digits, '.', '-' and '_', or an IP address, perhaps with a port, as in redis.example.com:6379, is accepted")

// SplitHost returns the host, without brackets, and the port, or 0 where there is none.
// Its errors do not show the text.
func SplitHost(text string) (host string, port int, err error) {
	host = text
	if h, p, err := net.SplitHostPort(text); err == nil {
		if port, err = parsePort(p); err != nil {
			if IsHost(h) && !strings.Contains(p, "@") {
				return "", 0, errors.New("port: behind the host, a port from 1 to 65535 is accepted")
			}
			return "", 0, errHost
		}
		host = h
	} else if h, ok := strings.CutPrefix(text, "["); ok {
		if host, ok = strings.CutSuffix(h, "]"); !ok {
			return "", 0, errHost
		}
	}
	if !IsHost(host) || text[0] == '[' && !strings.Contains(host, ":") {
		return "", 0, errHost
	}
	return host, port, nil
}

func parsePort(text string) (int, error) {
	n, err := Int(1, 65535)(text)
	if err != nil || text[0] == '+' || len(text) > 10 {
		return 0, ErrRejected
	}
	return int(n), nil
}

func IsHost(host string) bool {
	name := host
	if strings.Contains(host, ":") {
		addr, err := netip.ParseAddr(host)
		if err != nil {
			return false
		}
		if name = addr.Zone(); name == "" {
			return true
		}
	}
	if name == "" || len(name) > 253 || name[0] == '-' || name[0] == '.' {
		return false
	}
	return hostName.MatchString(name)
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// IsConnectionString reports whether text has the form of StackExchange.Redis, which is
// Azure's: host:port,password=…,ssl=True.
func IsConnectionString(text string) bool {
	_, options, ok := strings.Cut(text, ",")
	return ok && strings.Contains(options, "=")
}

func ErrConnectionString(name func(string) string) error {
	return fmt.Errorf("it is a connection string of StackExchange.Redis, as Azure shows it, which is not accepted: set %s, %s, %s and for ssl=True %s=true, or %s=rediss://:<password>@<host>:6380",
		name("Hosts"), name("Port"), name("Password"), name("TLS"), name("URL"))
}
