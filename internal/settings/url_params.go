package settings

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// setQuery sets u's fields from the parameters of go-redis, and from those of redis-py that
// have a meaning here. It refuses any other, but for those that other clients need and that
// change nothing here, which it lists in u.Ignored: a service may share its URL with a
// Python program. hasDB says that the path names a database, too.
func (u *URL) setQuery(query string, hasDB bool) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New(`query: want parameters like ?read_timeout=3s&pool_size=20, with "%26" for "&" and "%25" for "%" in their values`)
	}
	path := u.DB
	seen := make(map[string]string)
	for _, key := range slices.Sorted(maps.Keys(values)) { // the first error is the same each time
		p, ok := urlParams[key]
		if !ok && slices.Contains(ignoredParams, key) {
			u.Ignored = append(u.Ignored, key)
			continue
		}
		if !ok && slices.Contains(tlsFileParams, key) {
			return fmt.Errorf("parameter %s: it cannot be set in a URL; set Config.Redis.TLSConfig", key)
		}
		if !ok && (key == "ssl" || key == "tls") {
			return fmt.Errorf("parameter %s: want rediss:// instead of redis:// for TLS, and no parameter", key)
		}
		if !ok && !isParamName(key) {
			return errors.New("query: a parameter has an unknown name; want those of go-redis and redis-py")
		}
		if !ok {
			return fmt.Errorf("parameter %s: it is unknown; want those of go-redis, such as read_timeout, and of redis-py, such as socket_timeout", key)
		}
		if other, ok := seen[p.as(key)]; ok || len(values[key]) > 1 {
			if !ok {
				other = key
			}
			return fmt.Errorf("parameter %s: it means the same as another (%s); want one of them, given once", key, other)
		}
		seen[p.as(key)] = key
		if slices.Contains(tlsParams, key) {
			u.NeedsTLS = key
		}
		if text := values.Get(key); text != "" {
			switch err := p.set(u, text); {
			case errors.Is(err, ErrRejected):
				return fmt.Errorf("parameter %s: want %s", key, p.want)
			case err != nil:
				return fmt.Errorf("parameter %s: %w", key, err)
			}
		}
	}
	if hasDB && path != u.DB {
		return errors.New("database: the path and the parameter db name different ones; want one of them")
	}
	// go-redis panics on a jitter that is longer than the lifetime.
	u.Query.ConnMaxLifetimeJitter = min(u.Query.ConnMaxLifetimeJitter, max(0, u.Query.ConnMaxLifetime))
	return nil
}

// paramName matches the names that an error may show. Where a password has a "?" or a "&" in
// it that is not escaped, its rest is taken for parameters.
var paramName = regexp.MustCompile(`^[A-Za-z_.-]{1,40}$`)

func isParamName(key string) bool {
	return paramName.MatchString(key)
}

// ignoredParams are parameters of other clients that have no effect here, and need none.
var ignoredParams = []string{
	"decode_responses", "encoding", "encoding_errors", "health_check_interval", "lib_name", "lib_version", "retry_on_error", "retry_on_timeout",
	"single_connection_client", "socket_keepalive", "socket_read_size", "timeout", // redis-py
	"family", "allowUsernameInURI", // ioredis
}

// tlsFileParams are parameters of redis-py that cannot be ignored, as the connection would be
// less safe than the URL demands, and that a URL is the wrong place for.
var tlsFileParams = []string{"ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_keyfile_password", "ssl_ca_path", "ssl_ca_data", "ssl_min_version", "ssl_ciphers"}

// urlParam is a parameter that a URL may have.
type urlParam struct {
	alias string                          // go-redis's name for the same, if this is redis-py's
	want  string                          // for the error when set returns ErrRejected
	set   func(u *URL, text string) error // returns ErrRejected, or an error that says more
}

// as returns the name under which two parameters that mean the same meet; key is p's own.
func (p urlParam) as(key string) string {
	if p.alias != "" {
		return p.alias
	}
	return key
}

// aliasOf returns p as another name for key.
func (p urlParam) aliasOf(key string) urlParam {
	p.alias = key
	return p
}

// urlParams has the parameters by name. Numbers have bounds because go-redis panics on some,
// and allocates memory in proportion to others.
var urlParams = func() map[string]urlParam {
	number := func(low, high int64, field func(o *redis.UniversalOptions) *int) urlParam {
		return urlParam{want: fmt.Sprintf("a whole number from %d to %d", low, high), set: func(u *URL, text string) error {
			n, err := Int(low, high)(text)
			*field(&u.Query) = int(n)
			return err
		}}
	}
	truth := func(set func(u *URL, v bool)) urlParam {
		return urlParam{want: "true or false", set: func(u *URL, text string) error {
			v, err := Bool(text)
			set(u, v)
			return err
		}}
	}
	duration := func(fields func(o *redis.UniversalOptions) []*time.Duration) urlParam {
		return urlParam{want: "seconds (3) or a duration (500ms), 0 for no limit", set: func(u *URL, text string) error {
			d, err := Duration(-maxDuration, maxDuration)(text)
			if d <= 0 {
				d = -1 // go-redis has no limit then
			}
			for _, field := range fields(&u.Query) {
				*field = d
			}
			return err
		}}
	}
	wait := func(field func(o *redis.UniversalOptions) *time.Duration) urlParam {
		return urlParam{want: "seconds (3) or a duration (500ms), from 1ms", set: func(u *URL, text string) error {
			d, err := Duration(time.Millisecond, maxDuration)(text)
			*field(&u.Query) = d
			return err
		}}
	}
	type options = redis.UniversalOptions
	one := func(field func(o *options) *time.Duration) func(o *options) []*time.Duration {
		return func(o *options) []*time.Duration { return []*time.Duration{field(o)} }
	}
	const conns, bytes = 10000, 64 << 20
	retries := urlParam{want: "a whole number from -1 to 100, 0 for none", set: func(u *URL, text string) error {
		n, err := Int(-1, 100)(text)
		u.Query.MaxRetries = int(n)
		if n == 0 {
			u.Query.MaxRetries = -1 // go-redis has its default for 0, and none for -1
		}
		return err
	}}
	poolSize := number(0, conns, func(o *options) *int { return &o.PoolSize })
	dial := wait(func(o *options) *time.Duration { return &o.DialTimeout })
	idle := duration(one(func(o *options) *time.Duration { return &o.ConnMaxIdleTime }))
	lifetime := duration(one(func(o *options) *time.Duration { return &o.ConnMaxLifetime }))
	return map[string]urlParam{
		"db":       {want: "a whole number from 0", set: func(u *URL, text string) error { return rejectUnless(u.setDB(text) == nil) }},
		"protocol": number(2, 3, func(o *options) *int { return &o.Protocol }),
		"client_name": {want: "up to 100 printable ASCII characters without blanks", set: func(u *URL, text string) error {
			u.Query.ClientName = text
			return rejectUnless(len(text) <= 100 && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }))
		}},
		"username":                   {want: "a name, and no other in front of the host", set: setOnce(func(u *URL) *string { return &u.Username })},
		"password":                   {want: "a password, and no other in front of the host", set: setOnce(func(u *URL) *string { return &u.Password })},
		"max_retries":                retries,
		"min_retry_backoff":          duration(one(func(o *options) *time.Duration { return &o.MinRetryBackoff })),
		"max_retry_backoff":          duration(one(func(o *options) *time.Duration { return &o.MaxRetryBackoff })),
		"dial_timeout":               dial,
		"socket_connect_timeout":     dial.aliasOf("dial_timeout"),
		"read_timeout":               duration(one(func(o *options) *time.Duration { return &o.ReadTimeout })),
		"write_timeout":              duration(one(func(o *options) *time.Duration { return &o.WriteTimeout })),
		"socket_timeout":             duration(func(o *options) []*time.Duration { return []*time.Duration{&o.ReadTimeout, &o.WriteTimeout} }).aliasOf("read_timeout"),
		"pool_fifo":                  truth(func(u *URL, v bool) { u.Query.PoolFIFO = v }),
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
		"skip_verify":                truth(func(u *URL, v bool) { u.skipVerify = v }),
		"ssl_cert_reqs": urlParam{want: "none (any certificate), optional or required (both verify, as in Python's clients)", set: func(u *URL, text string) error {
			text = strings.TrimPrefix(strings.ToLower(text), "cert_")
			u.skipVerify = text == "none"
			return rejectUnless(text == "none" || text == "optional" || text == "required")
		}}.aliasOf("skip_verify"),
		"ssl_check_hostname": truth(func(u *URL, v bool) { u.skipHostname = !v }),
		"ssl_ca_certs":       {want: "the path of a file of PEM certificates", set: (*URL).setRootCAs},
	}
}()

// setRootCAs reads a file of certificates, of at most 64 MiB. Its errors do not show the path:
// it is from a URL, where a part of a password may stand in its place.
func (u *URL) setRootCAs(path string) error {
	const maxSize = 64 << 20
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("no such file; want the path of a file of PEM certificates")
	case err == nil && (!info.Mode().IsRegular() || info.Size() > maxSize):
		return errors.New("not a regular file of at most 64 MiB; want the path of a file of PEM certificates")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return errors.New("the file cannot be read; want the path of a file of PEM certificates")
	}
	u.rootCAs = x509.NewCertPool()
	if !u.rootCAs.AppendCertsFromPEM(data) {
		return errors.New("no PEM certificate in the file (-----BEGIN CERTIFICATE-----); want the path of a file of PEM certificates")
	}
	return nil
}

// tlsParams are refused without TLS, as go-redis and redis-py refuse them: a user who asks for
// a certificate to be verified should not get a connection without one.
var tlsParams = []string{"skip_verify", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs"}

// rejectUnless returns ErrRejected unless ok.
func rejectUnless(ok bool) error {
	if !ok {
		return ErrRejected
	}
	return nil
}

// setOnce returns a setter that refuses a text if the field has another already, from the part
// of the URL in front of the host.
func setOnce(field func(u *URL) *string) func(u *URL, text string) error {
	return func(u *URL, text string) error {
		f := field(u)
		if *f != "" && *f != text {
			return ErrRejected
		}
		*f = text
		return nil
	}
}
