package aside

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/cacheaside/aside/internal/redact"
	"github.com/cacheaside/aside/internal/settings"
)

// source says how the settings of a Redis are called where they come from, and which of
// its fields are set there, be it to their defaults or to something that is not accepted.
type source struct {
	name func(field string) string
	has  func(field string) bool
}

// configField names a field of Redis in errors.
func configField(field string) string { return "Config.Redis." + field }

// has reports whether a field is set.
func (r Redis) has(field string) bool {
	return !reflect.ValueOf(r).FieldByName(field).IsZero()
}

// drop empties fields.
func (r *Redis) drop(fields []string) {
	for _, field := range fields {
		reflect.ValueOf(r).Elem().FieldByName(field).SetZero()
	}
}

// note is a line for the log: on settings that have no effect, whose fields it has, or
// on a parameter of the URL.
type note struct {
	fields []string
	text   string
}

// resolve reads the settings of a Config.
func (r Redis) resolve() (*redis.UniversalOptions, []note, []error) {
	return r.resolveFrom(source{configField, r.has})
}

// resolveFrom is the one reading of the settings. It returns what the client is made of,
// and notes on settings that have no effect, or everything that is wrong. A setting that
// has no effect is not checked. No text is shown that may have a secret in it.
func (r Redis) resolveFrom(from source) (*redis.UniversalOptions, []note, []error) {
	var errs []error
	name := from.name
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("aside: "+name(field)+format, args...))
	}
	r.SentinelMaster = strings.TrimSpace(r.SentinelMaster)
	o := &redis.UniversalOptions{
		DB:                    r.DB,
		Username:              strings.TrimSpace(r.Username),
		Password:              r.Password,
		SentinelUsername:      strings.TrimSpace(r.SentinelUsername),
		SentinelPassword:      r.SentinelPassword,
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
	if r.SentinelMaster != "" && !settings.IsName(r.SentinelMaster) {
		bad("SentinelMaster", ": a name of letters, digits, '.', '-' and '_' is accepted")
	}
	if r.Cluster && r.SentinelMaster != "" {
		bad("Cluster", " and %s: set one of them, not both", name("SentinelMaster"))
	}
	if r.URL != "" && (r.SentinelMaster != "" || len(r.Hosts) > 1) {
		bad("URL", ": it names one server; set %s for several, or for Sentinels", name("Hosts"))
	}
	if !r.urlInPlace() {
		if r.usesPort() && (r.Port < 0 || r.Port > 65535) {
			bad("Port", " %d: from 1 to 65535 is accepted", r.Port)
		}
		if r.DB < 0 {
			bad("DB", " %d: 0 or more is accepted", r.DB)
		}
		if r.DB > 0 && r.isCluster() {
			several := ""
			if !r.Cluster {
				several = fmt.Sprintf("; several hosts in %s are a Cluster, or with %s the Sentinels", name("Hosts"), name("SentinelMaster"))
			}
			bad("DB", " %d: a Cluster has only 0, so no other is accepted%s", r.DB, several)
		}
		errs = append(errs, r.addresses(o, name)...)
	}
	var u *settings.URL
	if r.URL != "" {
		var err error
		if u, err = settings.ParseURL(r.URL, name); err != nil {
			bad("URL", ": %w", err)
			return nil, nil, errs
		}
		for _, err := range r.merge(o, u, name) {
			bad("URL", ": %w", err)
		}
	}
	switch lone := isLoneUser(o.Username, o.Password); {
	case lone && u != nil && u.HasUser():
		bad("URL", ": it has a user name without a password, with which go-redis does not authenticate: want both in the URL, or set %s and %s; for a password alone %s is accepted", name("Username"), name("Password"), u.PasswordForm())
	case lone:
		bad("Username", ": there is no password, without which go-redis does not authenticate: set %s", name("Password"))
	}
	if r.SentinelMaster != "" && isLoneUser(o.SentinelUsername, o.SentinelPassword) {
		bad("SentinelUsername", ": there is no password, without which go-redis does not authenticate: set %s", name("SentinelPassword"))
	}
	if len(errs) > 0 {
		return nil, nil, errs
	}
	return o, r.notes(o, u, from), nil
}

// notes returns those on settings that are set and have no effect. Settings that say the
// same as those that are used are not worth a line.
func (r Redis) notes(o *redis.UniversalOptions, u *settings.URL, from source) (notes []note) {
	unused := func(why string, fields ...string) {
		fields = slices.DeleteFunc(fields, func(field string) bool { return !from.has(field) })
		if len(fields) > 0 {
			notes = append(notes, note{fields, namesOf(fields, from) + " not used " + why})
		}
	}
	if u != nil {
		fields := []string{"Hosts", "Port", "DB"}
		if strings.TrimSpace(r.Username) != o.Username {
			fields = append(fields, "Username")
		}
		if r.Password != o.Password {
			fields = append(fields, "Password")
		}
		if u.TLS && !r.TLS {
			fields = append(fields, "TLS")
		}
		unused("beside "+from.name("URL"), fields...)
		for _, param := range u.Ignored {
			notes = append(notes, note{text: fmt.Sprintf("the parameter %s in the URL of Redis is ignored; it has no meaning for this client", param)})
		}
	} else if !r.usesPort() {
		unused("beside "+from.name("Hosts")+", where each host has a port", "Port")
	}
	if o.IsClusterMode && !r.Cluster {
		unused("beside "+from.name("Hosts")+": several hosts are a Cluster", "Cluster")
	}
	if r.SentinelMaster == "" {
		unused("without "+from.name("SentinelMaster"), "SentinelUsername", "SentinelPassword")
	}
	return notes
}

// namesOf returns the fields' names and the verb that goes with them.
func namesOf(fields []string, from source) string {
	text := from.name(fields[0])
	for i, field := range fields[1:] {
		if i == len(fields)-2 {
			text += " and " + from.name(field)
		} else {
			text += ", " + from.name(field)
		}
	}
	if len(fields) > 1 {
		return text + " are"
	}
	return text + " is"
}

// isLoneUser reports whether a connection would be the default user's though another one
// is named: go-redis sends no user name without a password.
func isLoneUser(username, password string) bool {
	return username != "" && username != "default" && password == ""
}

// addresses fills in those of the hosts.
func (r Redis) addresses(o *redis.UniversalOptions, name func(field string) string) (errs []error) {
	if settings.IsConnectionString(strings.Join(r.Hosts, ",")) {
		return []error{fmt.Errorf("aside: %s: %w", name("Hosts"), settings.ErrConnectionString(name))}
	}
	hosts := r.Hosts
	if len(hosts) == 0 {
		hosts = []string{"localhost"}
	}
	for i, text := range hosts {
		host, port, err := settings.SplitHost(strings.TrimSpace(text))
		if err != nil {
			if strings.Contains(text, "://") {
				err = fmt.Errorf("a URL is not accepted here: set %s to it, or a host without scheme and slashes", name("URL"))
			} else if strings.HasPrefix(text, "/") {
				err = fmt.Errorf("a socket's path is not accepted here: set %s=unix:///path/to/socket", name("URL"))
			}
			of := ""
			if len(hosts) > 1 {
				of = fmt.Sprintf(", number %d of %d", i+1, len(hosts))
			}
			errs = append(errs, fmt.Errorf("aside: %s%s: %w", name("Hosts"), of, err))
			continue
		}
		o.Addrs = append(o.Addrs, net.JoinHostPort(host, strconv.Itoa(cmp.Or(port, r.Port, r.defaultPort()))))
	}
	return errs
}

// merge puts a URL in the place of hosts, port and database.
func (r Redis) merge(o *redis.UniversalOptions, u *settings.URL, name func(field string) string) (errs []error) {
	socket := u.Host == ""
	if u.DB > 0 && r.isCluster() {
		errs = append(errs, fmt.Errorf("database: a Cluster has only 0, so no other is accepted with %s", name("Cluster")))
	}
	if socket && r.Cluster {
		errs = append(errs, fmt.Errorf("a socket leads to one server: set %s=false, or a host", name("Cluster")))
	}
	if socket && o.TLSConfig != nil {
		errs = append(errs, fmt.Errorf("a socket has no TLS: set %s=false, or a host", name("TLS")))
	}
	if u.NeedsTLS != "" && !u.TLS && o.TLSConfig == nil {
		errs = append(errs, fmt.Errorf("parameter %s: without TLS it is not accepted; set %s=true, or rediss:// in place of redis://", u.NeedsTLS, name("TLS")))
	}
	own := *o
	*o = u.Query
	o.Addrs, o.DB = []string{u.Addr}, u.DB
	o.Username, o.Password = own.Username, own.Password
	if u.HasUser() {
		o.Username, o.Password = u.Username, u.Password
	}
	o.IsClusterMode, o.ContextTimeoutEnabled, o.MaintNotificationsConfig = own.IsClusterMode, true, own.MaintNotificationsConfig
	o.DialerRetries, o.MaxRetries = own.DialerRetries, cmp.Or(o.MaxRetries, own.MaxRetries)
	if u.TLS || own.TLSConfig != nil {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if own.TLSConfig != nil {
			o.TLSConfig = own.TLSConfig.Clone()
		}
		if o.TLSConfig.ServerName == "" {
			o.TLSConfig.ServerName = u.Host
		}
		u.Secure(o.TLSConfig)
	}
	return errs
}

// urlInPlace reports whether a URL takes the place of Hosts, Port and DB.
func (r Redis) urlInPlace() bool {
	if r.URL == "" || len(r.Hosts) > 1 || strings.TrimSpace(r.SentinelMaster) != "" {
		return false
	}
	_, err := settings.ParseURL(r.URL, configField)
	return err == nil
}

// usesPort reports whether Port has an effect: there is no URL, and a host without a
// port of its own.
func (r Redis) usesPort() bool {
	if r.urlInPlace() {
		return false
	}
	return len(r.Hosts) == 0 || slices.ContainsFunc(r.Hosts, func(text string) bool {
		_, port, err := settings.SplitHost(strings.TrimSpace(text))
		return err != nil || port == 0
	})
}

func (r Redis) defaultPort() int {
	if r.SentinelMaster != "" {
		return 26379
	}
	return 6379
}

// isCluster reports whether there is a Cluster to connect to: several hosts that
// are not Sentinels, or one that is said to be a Cluster's.
func (r Redis) isCluster() bool {
	return r.SentinelMaster == "" && (r.Cluster || len(r.Hosts) > 1)
}

// client makes the client that Open uses. It obeys the deadlines of contexts. The
// strings are for the log.
func (r Redis) client() (redis.UniversalClient, []string, error) {
	o, notes, errs := r.resolve()
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	var texts []string
	for _, note := range notes {
		texts = append(texts, note.text)
	}
	return redis.NewUniversalClient(o), texts, nil
}

// shown returns r with "***" in the place of secrets, and of texts that may have one in them:
// names, passwords, the URL, and hosts and a master's name that are none. TLSConfig is
// empty, or nil. It is the one form in which a Redis is printed.
func (r Redis) shown() Redis {
	for _, secret := range []*string{&r.URL, &r.Username, &r.Password, &r.SentinelUsername, &r.SentinelPassword} {
		if *secret != "" {
			*secret = redact.Shown
		}
	}
	if r.TLSConfig != nil {
		r.TLSConfig = new(tls.Config)
	}
	r.Hosts = slices.Clone(r.Hosts)
	for i, host := range r.Hosts {
		if _, _, err := settings.SplitHost(strings.TrimSpace(host)); err != nil && !strings.HasPrefix(host, "/") { // InForce has a socket's path
			r.Hosts[i] = redact.Shown
		}
	}
	if r.SentinelMaster != "" && !settings.IsName(strings.TrimSpace(r.SentinelMaster)) {
		r.SentinelMaster = redact.Shown
	}
	return r
}

// Format prints r, with each verb, without its secrets: a Config is often logged. It
// does so for a Config that is printed by itself or in exported fields; package fmt calls
// no methods in unexported fields.
func (r Redis) Format(state fmt.State, verb rune) {
	type plain Redis
	fmt.Fprintf(state, fmt.FormatString(state, verb), plain(r.shown()))
}

// MarshalText returns r as it is printed, for logs in JSON and the like. It is no form
// that r could be read from.
func (r Redis) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%+v", r), nil }

// InForce returns the settings that Open uses for c, for showing: defaults are filled
// in, Redis has in Hosts, Port, DB, TLS, Cluster and SentinelMaster what its client is
// made of, also where a URL says it, and no secret. Each of Hosts is host:port, or the
// path of a socket; Port is the first one's, 0 for a socket. User names and passwords
// that are set are "***"; URL and TLSConfig are left out. With another Type than
// "redis" there is no Redis. Its error is Open's.
func (c Config) InForce() (Config, error) {
	c, err := c.withDefaults()
	if err != nil {
		return Config{}, err
	}
	if c.Type != typeRedis {
		c.Redis = Redis{}
		return c, nil
	}
	o, _, errs := c.Redis.resolve()
	if len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	r := Redis{Hosts: o.Addrs, DB: o.DB, TLS: o.TLSConfig != nil, Cluster: o.IsClusterMode, SentinelMaster: o.MasterName}
	if _, port, err := net.SplitHostPort(o.Addrs[0]); err == nil && o.Addrs[0][0] != '/' {
		r.Port, _ = strconv.Atoi(port)
	}
	r.Username, r.Password, r.SentinelUsername, r.SentinelPassword = o.Username, o.Password, o.SentinelUsername, o.SentinelPassword
	c.Redis = r.shown()
	return c, nil
}
