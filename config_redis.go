package aside

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// errRedisURL does not show the URL, which may have a password.
var errRedisURL = errors.New("a URL like redis://user:password@host:6379/0, rediss://host:6379/0 or unix:///path/to/socket?db=0 is accepted")

func (r Redis) validate() []error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("aside: Config.Redis."+format, args...))
	}
	if r.URL != "" {
		if _, err := parseRedisURL(r.URL); err != nil {
			bad("URL: %w", err)
		}
	}
	for _, host := range r.Hosts {
		if _, err := r.addr(host); err != nil {
			bad("Hosts: %w", err)
		}
	}
	if r.Port < 0 || r.Port > 65535 {
		bad("Port %d: from 1 to 65535 is accepted", r.Port)
	}
	if r.DB < 0 {
		bad("DB %d: 0 or more is accepted", r.DB)
	}
	return append(errs, r.together(func(field string) string { return "Config.Redis." + field })...)
}

// together returns what is wrong only of fields together, with the names that the
// caller has for them.
func (r Redis) together(name func(field string) string) []error {
	var errs []error
	if r.DB > 0 && r.isCluster() {
		errs = append(errs, fmt.Errorf("aside: %s %d: a Cluster has only 0", name("DB"), r.DB))
	}
	if r.Cluster && r.SentinelMaster != "" {
		errs = append(errs, fmt.Errorf("aside: %s and %s: set one of them, not both", name("Cluster"), name("SentinelMaster")))
	}
	if r.URL != "" && (r.SentinelMaster != "" || len(r.Hosts) > 1) {
		errs = append(errs, fmt.Errorf("aside: %s: it names one server; set %s for several, or for Sentinels", name("URL"), name("Hosts")))
	}
	return errs
}

// isCluster reports whether there is a Cluster to connect to: several hosts that
// are not Sentinels, or one that is said to be a Cluster's.
func (r Redis) isCluster() bool {
	return r.SentinelMaster == "" && (r.Cluster || len(r.Hosts) > 1)
}

// addr returns host with a port.
func (r Redis) addr(host string) (string, error) {
	if h, port, err := net.SplitHostPort(host); err == nil {
		if n, err := strconv.Atoi(port); h == "" || err != nil || n < 1 || n > 65535 {
			return "", fmt.Errorf("%.200q: a host, or host:port with a port from 1 to 65535, is accepted", redacted(host))
		}
		return host, nil
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if bare == "" || strings.ContainsAny(bare, "/@ \t") || strings.Contains(bare, ":") && net.ParseIP(bare) == nil {
		return "", fmt.Errorf("%.200q: a host, or host:port with a port from 1 to 65535, is accepted", redacted(host))
	}
	return net.JoinHostPort(bare, strconv.Itoa(r.Port)), nil
}

// redacted hides what may be a password in front of a host.
func redacted(host string) string {
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		return "…" + host[i:]
	}
	return host
}

func parseRedisURL(text string) (*redis.Options, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errRedisURL
	}
	switch u.Scheme {
	case "redis", "rediss", "unix":
	default:
		return nil, errRedisURL
	}
	o, err := redis.ParseURL(text)
	if err != nil {
		return nil, errRedisURL
	}
	if _, port, err := net.SplitHostPort(o.Addr); u.Scheme != "unix" {
		if n, e := strconv.Atoi(port); err != nil || e != nil || n < 1 || n > 65535 {
			return nil, errRedisURL
		}
	}
	return o, nil
}

// client makes the client that Open uses. It obeys the deadlines of contexts.
func (r Redis) client() (redis.UniversalClient, error) {
	o := &redis.UniversalOptions{
		DB:                    r.DB,
		Username:              r.Username,
		Password:              r.Password,
		TLSConfig:             r.TLSConfig,
		MasterName:            r.SentinelMaster,
		IsClusterMode:         r.isCluster(),
		ContextTimeoutEnabled: true,
		DialerRetries:         1, // a refused connection is known at once, and why
		MaxRetries:            1,
		// Hand-overs of Redis Enterprise; to find out about them looks the host up.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if r.TLS && o.TLSConfig == nil {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if r.URL != "" {
		u, err := parseRedisURL(r.URL)
		if err != nil {
			return nil, fmt.Errorf("aside: Config.Redis.URL: %w", err)
		}
		u.ContextTimeoutEnabled = true
		u.DialerRetries, u.MaxRetries = 1, 1
		u.MaintNotificationsConfig = o.MaintNotificationsConfig
		u.Username = cmp.Or(u.Username, r.Username)
		u.Password = cmp.Or(u.Password, r.Password)
		if o.TLSConfig != nil && u.Network != "unix" {
			u.TLSConfig = o.TLSConfig.Clone()
			if u.TLSConfig.ServerName == "" {
				u.TLSConfig.ServerName, _, _ = net.SplitHostPort(u.Addr)
			}
		}
		if !r.Cluster {
			return redis.NewClient(u), nil
		}
		o.Addrs, o.TLSConfig = []string{u.Addr}, u.TLSConfig
		o.Username, o.Password = u.Username, u.Password
		return redis.NewUniversalClient(o), nil
	}
	for _, host := range r.Hosts {
		addr, err := r.addr(host)
		if err != nil {
			return nil, fmt.Errorf("aside: Config.Redis.Hosts: %w", err)
		}
		o.Addrs = append(o.Addrs, addr)
	}
	return redis.NewUniversalClient(o), nil
}
