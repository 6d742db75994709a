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

// source is where the settings of a Redis come from: a Config or the environment. name
// returns a field's name there, for errors. has reports whether the field is set there,
// even to its default or to an invalid value, which the field itself cannot tell.
type source struct {
	name func(field string) string
	has  func(field string) bool
}

// configField returns a field's name in a Config.
func configField(field string) string { return "Config.Redis." + field }

// has reports whether a field is set.
func (r Redis) has(field string) bool {
	return !reflect.ValueOf(r).FieldByName(field).IsZero()
}

// drop sets fields to their zero values.
func (r *Redis) drop(fields []string) {
	for _, field := range fields {
		reflect.ValueOf(r).Elem().FieldByName(field).SetZero()
	}
}

// note is a line for the log about settings without an effect, named by fields, or about
// an ignored parameter of the URL, which has no fields.
type note struct {
	fields []string
	text   string
}

// resolve is resolveFrom of a Config.
func (r Redis) resolve() (*redis.UniversalOptions, []note, []error) {
	return r.resolveFrom(source{configField, r.has})
}

// resolveFrom reads the settings, for Open, InForce and ConfigFromEnv alike, so that all
// three agree. It returns the options of the client with notes on settings without an
// effect, or every error. A setting without an effect is not checked. No text that may
// contain a secret is shown.
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
		DialerRetries:         1, // so that a refused connection is an error at once
		MaxRetries:            1,
		// Announces maintenance of Redis Enterprise. Negotiating it costs a look-up of the host.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if r.TLS && o.TLSConfig == nil {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if r.SentinelMaster != "" && !settings.IsName(r.SentinelMaster) {
		bad("SentinelMaster", ": want a name of letters, digits, '.', '-' and '_'")
	}
	if r.Cluster && r.SentinelMaster != "" {
		bad("Cluster", " and %s: want only one of them", name("SentinelMaster"))
	}
	if r.URL != "" && (r.SentinelMaster != "" || len(r.Hosts) > 1) {
		bad("URL", ": it names one server; for several, or for Sentinels, set %s", name("Hosts"))
	}
	if !r.urlInPlace() {
		if r.usesPort() && (r.Port < 0 || r.Port > 65535) {
			bad("Port", " %d: want a port from 1 to 65535", r.Port)
		}
		if r.DB < 0 {
			bad("DB", " %d: want 0 or more", r.DB)
		}
		if r.DB > 0 && r.isCluster() {
			several := ""
			if !r.Cluster {
				several = fmt.Sprintf("; several hosts in %s are a Cluster, or with %s the Sentinels", name("Hosts"), name("SentinelMaster"))
			}
			bad("DB", " %d: want 0, as a Cluster has no other database%s", r.DB, several)
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
		bad("URL", ": user name without a password, with which go-redis does not authenticate; want both in the URL, or in %s and %s, or a password alone as %s", name("Username"), name("Password"), u.PasswordForm())
	case lone:
		bad("Username", ": no password, without which go-redis does not authenticate; set %s", name("Password"))
	}
	if r.SentinelMaster != "" && isLoneUser(o.SentinelUsername, o.SentinelPassword) {
		bad("SentinelUsername", ": no password, without which go-redis does not authenticate; set %s", name("SentinelPassword"))
	}
	if len(errs) > 0 {
		return nil, nil, errs
	}
	return o, r.notes(o, u, from), nil
}

// notes returns the notes on settings without an effect. A setting that says the same as
// the one that replaces it gets none.
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
			notes = append(notes, note{text: fmt.Sprintf("the parameter %s in the URL of Redis is ignored: it has no meaning for this client", param)})
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

// namesOf joins the names of fields, and adds the verb that agrees with their number.
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

// isLoneUser reports whether a user name would be ignored, and the connection be the
// default user's: go-redis sends no user name without a password.
func isLoneUser(username, password string) bool {
	return username != "" && username != "default" && password == ""
}

// addresses fills in the addresses of the hosts.
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
				err = fmt.Errorf("want a host without scheme and slashes; for a URL, set %s", name("URL"))
			} else if strings.HasPrefix(text, "/") {
				err = fmt.Errorf("want a host; for a socket, set %s=unix:///path/to/socket", name("URL"))
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

// merge makes o the options of a URL: its host, port and database, and its parameters.
// Settings that the URL does not have stay as they are in o.
func (r Redis) merge(o *redis.UniversalOptions, u *settings.URL, name func(field string) string) (errs []error) {
	socket := u.Host == ""
	if u.DB > 0 && r.isCluster() {
		errs = append(errs, fmt.Errorf("database: want 0 with %s, as a Cluster has no other", name("Cluster")))
	}
	if socket && r.Cluster {
		errs = append(errs, fmt.Errorf("a socket leads to one server; want %s=false, or a host", name("Cluster")))
	}
	if socket && o.TLSConfig != nil {
		errs = append(errs, fmt.Errorf("a socket has no TLS; want %s=false, or a host", name("TLS")))
	}
	if u.NeedsTLS != "" && !u.TLS && o.TLSConfig == nil {
		errs = append(errs, fmt.Errorf("parameter %s: it needs TLS; want %s=true, or rediss:// in place of redis://", u.NeedsTLS, name("TLS")))
	}
	// The parameters are a whole set of options, so the settings outside of the URL are put
	// back over them.
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

// urlInPlace reports whether a valid URL replaces Hosts, Port and DB. A URL beside
// several hosts or Sentinels is an error, which is reported with theirs.
func (r Redis) urlInPlace() bool {
	if r.URL == "" || len(r.Hosts) > 1 || strings.TrimSpace(r.SentinelMaster) != "" {
		return false
	}
	_, err := settings.ParseURL(r.URL, configField)
	return err == nil
}

// usesPort reports whether Port has an effect: there is no URL in place, and a host
// without a port of its own.
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

// isCluster reports whether to connect to a Cluster: several hosts without
// SentinelMaster, or a single one with Cluster set.
func (r Redis) isCluster() bool {
	return r.SentinelMaster == "" && (r.Cluster || len(r.Hosts) > 1)
}

// client returns the client that Open uses, and notes for the log. It obeys the deadlines
// of contexts on the wire, which keeps calls within the time budget at no further cost.
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

// shown returns the one form in which a Redis is printed. "***" stands for every secret
// and every text that may contain one: names, passwords, the URL, and invalid hosts or
// names of masters, which may be a secret under a wrong name. TLSConfig is nil or empty.
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
		if _, _, err := settings.SplitHost(strings.TrimSpace(host)); err != nil && !strings.HasPrefix(host, "/") { // InForce puts the path of a socket there
			r.Hosts[i] = redact.Shown
		}
	}
	if r.SentinelMaster != "" && !settings.IsName(strings.TrimSpace(r.SentinelMaster)) {
		r.SentinelMaster = redact.Shown
	}
	return r
}

// Format prints r without its secrets, with any verb, since a Config is often logged. It
// covers a Config printed by itself or in exported fields. Package fmt calls no methods
// of unexported fields, so a Config in one shows its secrets.
func (r Redis) Format(state fmt.State, verb rune) {
	type plain Redis
	fmt.Fprintf(state, fmt.FormatString(state, verb), plain(r.shown()))
}

// MarshalText returns r as it is printed, without secrets, for logs in JSON and the like.
// It cannot be read back.
func (r Redis) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%+v", r), nil }

// InForce returns the settings that Open uses for c, to be shown. Defaults are filled in.
// Redis has the client's Hosts, Port, DB, TLS, Cluster and SentinelMaster, even where a
// URL set them. Each of Hosts is host:port, or the path of a socket; Port is the first
// one's, and 0 for a socket.
//
// It contains no secret: user names and passwords that are set are "***", and URL and
// TLSConfig are left out. With a Type other than "redis", Redis is empty. The error is
// Open's.
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
