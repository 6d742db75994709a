package aside

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cacheaside/aside/internal/settings"
)

// ConfigFromEnv reads a Config from environment variables, each "NAME=value" as
// [os.Environ] returns them. Of several with one name the last one counts, and a variable
// that is absent or empty leaves its default. The error names every invalid variable with
// its wanted form; it shows no password. In parentheses are the defaults.
//
//	CACHE_ENABLED           false: Type is none (true)
//	CACHE_TYPE              redis, memory or none (redis)
//	CACHE_KEY_PREFIX        put in front of every key; ends with a separator, as app: ()
//	CACHE_TTL_CHAT_MESSAGES time to live (1800)
//	CACHE_TTL_USER_CHATS    time to live (600)
//	CACHE_TTL_GENERATION    time to live, from 5s (300)
//	CACHE_TTL_CANCEL        time to live, from 500ms (60)
//	CACHE_TTL_<NAME>        time to live of the keyspace <name>, in lower case
//	CACHE_TTL_JITTER        largest share of it taken off at random, 0 to 0.9 (0)
//	CACHE_REFRESH_<NAME>    RefreshAfter of the keyspace <name>, in lower case; 0: never
//	CACHE_TIMEOUT           time budget of a call for backend commands that fail (250ms)
//	CACHE_LOAD_TIMEOUT      most that a load may take (5m)
//	CACHE_MAX_LOADS         loads that may run at a time in this process (0: no limit)
//	CACHE_AUDIT             share of hits that are loaded again and compared, 0 to 1 (0)
//	CACHE_MEMORY_MAX_BYTES  MemoryMaxBytes and DecodedMaxBytes (67108864)
//	CACHE_NEAR_MAX_BYTES    size of the near cache over Redis (0: none)
//	CACHE_MAX_VALUE_BYTES   size of the largest value that is stored (16777216)
//	CACHE_QUEUE_SIZE        undelivered invalidations that are kept (65536)
//	CACHE_REFUSE_WRITES     true: fail an Update that cannot block its keys (false)
//	REDIS_URL               redis://, rediss:// or unix://; replaces the next three,
//	                        which then have no effect ()
//	REDIS_HOST              host, or several, separated by commas (localhost)
//	REDIS_PORT              1 to 65535 (6379; 26379 for Sentinels)
//	REDIS_DB                0 or more (0)
//	REDIS_USERNAME, REDIS_PASSWORD
//	                        a user name needs a password ()
//	REDIS_TLS               true or false (false)
//	REDIS_CLUSTER           true: a single REDIS_HOST is a node of a Cluster (false)
//	REDIS_SENTINEL_MASTER   name of the master; REDIS_HOST are then the Sentinels ()
//	REDIS_SENTINEL_USERNAME, REDIS_SENTINEL_PASSWORD
//	                        for Sentinels that need them ()
//	REDIS_WAIT_REPLICAS     replicas that must acknowledge an invalidation (0)
//
// Times to live, ages and timeouts are seconds (1800) or Go durations (30m). The REDIS_
// variables are read only if Type is redis.
//
// Config.Warnings lists variables that have no effect, such as a REDIS_HOST beside a
// REDIS_URL, and those with a ${NAME} that was not expanded. It lists unknown variables
// that begin with CACHE_ or REDIS_, each with the name that was probably meant. Known
// variables of other programs, such as REDIS_SERVICE_HOST, are listed only if they have
// the address of a Redis while neither REDIS_URL nor REDIS_HOST is set.
func ConfigFromEnv(environ []string) (Config, error) {
	env := make(map[string]string, len(environ))
	e := envReader{env: env}
	for i, variable := range environ {
		name, value, ok := strings.Cut(variable, "=")
		if !ok { // its text is not shown: it may be a secret
			e.errs = append(e.errs, fmt.Errorf("aside: variable %d of the environment has no '=': want NAME=value", i+1))
			continue
		}
		env[name] = value
	}
	enabled := true
	c := Config{TTLs: map[string]time.Duration{
		chatMessages.Name: chatMessages.TTL,
		userChats.Name:    userChats.TTL,
		generation.Name:   generation.TTL,
		cancelSignal.Name: cancelSignal.TTL,
	}}
	readVar(&e, "CACHE_ENABLED", "true or false", &enabled, settings.Bool)
	readVar(&e, "CACHE_TYPE", "redis, memory or none", &c.Type, parseType)
	readVar(&e, "CACHE_KEY_PREFIX", "at most 256 bytes that end with a separator, such as app:, and have no braces except one hash tag, {tag}", &c.KeyPrefix, func(s string) (string, error) {
		return s, Config{KeyPrefix: s}.validate()
	})
	readVar(&e, "CACHE_TTL_JITTER", "a number from 0 to 0.9", &c.Jitter, settings.Float(0, 0.9))
	readVar(&e, "CACHE_TIMEOUT", "seconds or a duration like 250ms, from 1ms to 1h", &c.Timeout, settings.Duration(time.Millisecond, time.Hour))
	if _, err := strconv.ParseFloat(e.trimmed("CACHE_TIMEOUT"), 64); err == nil && c.Timeout > 10*time.Second {
		e.warnings = append(e.warnings, "CACHE_TIMEOUT is a number above 10 without a unit, so it is in seconds; write milliseconds as 250ms")
	}
	readVar(&e, "CACHE_LOAD_TIMEOUT", "seconds or a duration like 5m, from 1ms to 24h", &c.LoadTimeout, settings.Duration(time.Millisecond, 24*time.Hour))
	readVar(&e, "CACHE_MAX_LOADS", "a whole number from 0 to 100000000", &c.MaxLoads, func(s string) (int, error) {
		n, err := settings.Int(0, 1e8)(s)
		return int(n), err
	})
	readVar(&e, "CACHE_AUDIT", "a number from 0 to 1", &c.Audit, settings.Float(0, 1))
	readVar(&e, "CACHE_MEMORY_MAX_BYTES", "a whole number from 1", &c.MemoryMaxBytes, settings.Int(1, math.MaxInt64))
	readVar(&e, "CACHE_NEAR_MAX_BYTES", "a whole number from 0", &c.NearMaxBytes, settings.Int(0, math.MaxInt64))
	readVar(&e, "CACHE_MAX_VALUE_BYTES", "a whole number from 1 to 536870912 (512 MiB)", &c.MaxValueBytes, settings.Int(1, 512<<20))
	readVar(&e, "CACHE_QUEUE_SIZE", "a whole number from 1 to 100000000", &c.QueueSize, func(s string) (int, error) {
		n, err := settings.Int(1, 1e8)(s)
		return int(n), err
	})
	readVar(&e, "CACHE_REFUSE_WRITES", "true or false", &c.RefuseWrites, settings.Bool)
	c.DecodedMaxBytes = c.MemoryMaxBytes
	if !enabled {
		c.Type = typeNone
	}
	e.ttls(c.TTLs)
	e.refreshes(&c)
	usesRedis := c.Type == "" || c.Type == typeRedis
	if usesRedis {
		e.redis(&c)
	}
	c.Warnings = slices.Concat(e.warnings, e.references(usesRedis), settings.UnknownVars(env, usesRedis))
	return c, errors.Join(e.errs...)
}

// envReader collects warnings and errors while variables are read. It is given the
// environment, as tests that run in parallel each have their own.
type envReader struct {
	env      map[string]string
	warnings []string
	errs     []error
}

// readVar parses a variable into field, and reports whether it could. The error of parse
// is dropped, as it may quote the text. The message has the wanted form, and shows the
// text only if it is a number or a duration: any other may be a secret under a wrong
// name.
func readVar[T any](e *envReader, name, want string, field *T, parse func(string) (T, error)) (ok bool) {
	text := strings.TrimSpace(e.env[name])
	if text == "" {
		return true
	}
	v, err := parse(text)
	if err != nil {
		shown := ""
		if settings.IsMeasure(text) {
			shown = fmt.Sprintf("=%q", text)
		}
		e.errs = append(e.errs, fmt.Errorf("aside: %s%s: want %s", name, shown, want))
		return false
	}
	*field = v
	return true
}

// ofKeyspaces calls read for each variable that has the prefix, is set and names a
// keyspace. Two variables for one keyspace, which differ in case, are an error: either
// could be meant.
func (e *envReader) ofKeyspaces(prefix, meaning string, read func(name, space string)) {
	var names []string
	for name := range e.env {
		if strings.HasPrefix(name, prefix) && name != "CACHE_TTL_JITTER" && e.trimmed(name) != "" && !settings.IsForeign(name, e.env[name]) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	spelt := make(map[string]string)
	for _, name := range names {
		space := strings.ToLower(strings.TrimPrefix(name, prefix))
		if !isName(space) {
			e.errs = append(e.errs, fmt.Errorf("aside: %s: want a keyspace name of %s", name, acceptedNames))
			continue
		}
		if other, ok := spelt[space]; ok {
			e.errs = append(e.errs, fmt.Errorf("aside: %s and %s: both are %s of the keyspace %q; set only one", other, name, meaning, space))
			continue
		}
		spelt[space] = name
		read(name, space)
	}
}

// ttls reads the times to live.
func (e *envReader) ttls(ttls map[string]time.Duration) {
	e.ofKeyspaces("CACHE_TTL_", "the time to live", func(name, space string) {
		ttl, least := ttls[space], leastTTL(space)
		if readVar(e, name, fmt.Sprintf("seconds (1800) or a duration (30m), from %v to one year", least), &ttl, settings.Duration(least, maxTTL)) {
			ttls[space] = ttl
		} else {
			delete(ttls, space) // so that refreshes compares no age with it
		}
	})
}

// refreshes reads the ages from which values are loaded again, and compares them with the
// times to live known here. Those of the service's own keyspaces are compared by Open and
// GetOrLoad.
func (e *envReader) refreshes(c *Config) {
	e.ofKeyspaces("CACHE_REFRESH_", "the RefreshAfter", func(name, space string) {
		if isState(space) {
			e.errs = append(e.errs, fmt.Errorf("aside: %s: want a keyspace whose values are loaded; %q holds states, which cannot be refreshed", name, space))
			return
		}
		var after time.Duration
		if !readVar(e, name, "seconds (1200) or a duration (20m), from 1ms to the keyspace's time to live less CACHE_TTL_JITTER, or 0 for never", &after, parseAge) {
			return
		}
		if c.RefreshAfter == nil {
			c.RefreshAfter = make(map[string]time.Duration)
		}
		c.RefreshAfter[space] = after
		ttl, ok := c.TTLs[space]
		if least := (&ttlPolicy{jitter: c.Jitter}).least(ttl); ok && after > least {
			e.errs = append(e.errs, fmt.Errorf("aside: %s %v: want at most %v, which is CACHE_TTL_%s (%v) less CACHE_TTL_JITTER (%v)",
				name, after, least, strings.ToUpper(space), ttl, c.Jitter))
		}
	})
}

// parseAge parses a time to live, or 0.
func parseAge(s string) (time.Duration, error) {
	if d, err := settings.Duration(0, 0)(s); err == nil {
		return d, nil
	}
	return settings.Duration(minTTL, maxTTL)(s)
}

// redis reads the settings of Redis. Settings without an effect get a warning and are
// left out of the Config, so that Open does not warn of them again.
func (e *envReader) redis(c *Config) {
	number := func(low, high int64) func(string) (int, error) {
		return func(s string) (int, error) {
			n, err := settings.Int(low, high)(s)
			return int(n), err
		}
	}
	r := &c.Redis
	readVar(e, "REDIS_WAIT_REPLICAS", "a whole number from 0 to 100", &c.WaitReplicas, number(0, 100))
	readVar(e, "REDIS_TLS", "true or false", &r.TLS, settings.Bool)
	readVar(e, "REDIS_CLUSTER", "true or false", &r.Cluster, settings.Bool)
	// Passwords are not trimmed: one may begin or end with a blank.
	r.Password, r.SentinelPassword = e.env["REDIS_PASSWORD"], e.env["REDIS_SENTINEL_PASSWORD"]
	r.Username, r.SentinelUsername = e.trimmed("REDIS_USERNAME"), e.trimmed("REDIS_SENTINEL_USERNAME")
	r.SentinelMaster = e.trimmed("REDIS_SENTINEL_MASTER")
	r.URL = e.trimmed("REDIS_URL")
	if text := e.trimmed("REDIS_HOST"); text != "" {
		for host := range strings.SplitSeq(text, ",") {
			r.Hosts = append(r.Hosts, strings.TrimSpace(host))
		}
	}
	if !r.urlInPlace() {
		readVar(e, "REDIS_DB", "a whole number from 0", &r.DB, number(0, math.MaxInt32))
	}
	// Kubernetes sets REDIS_PORT to a URL if there is a Service named redis.
	isLink := strings.Contains(e.env["REDIS_PORT"], "://")
	if r.usesPort() {
		want := "a port from 1 to 65535"
		if isLink {
			want += ` (a URL here is a service link of Kubernetes: set enableServiceLinks: false in the pod's spec, or REDIS_PORT itself)`
		}
		readVar(e, "REDIS_PORT", want, &r.Port, number(1, 65535))
	}
	_, notes, errs := r.resolveFrom(source{
		name: func(field string) string { return redisVars[field] },
		has: func(field string) bool {
			return r.has(field) || e.trimmed(redisVars[field]) != "" && !(field == "Port" && isLink)
		},
	})
	for _, note := range notes {
		if len(note.fields) > 0 { // Open logs the others
			e.warnings = append(e.warnings, note.text)
			r.drop(note.fields)
		}
	}
	if len(errs) > 0 { // a Config returned with an error may be printed
		r.URL, r.Hosts, r.SentinelMaster = "", nil, ""
	}
	e.errs = append(e.errs, errs...)
}

// references warns of texts that some other program should have expanded. They are used
// as they are, since a password may look like a reference.
func (e *envReader) references(usesRedis bool) (warnings []string) {
	for _, name := range []string{"CACHE_KEY_PREFIX", "REDIS_URL", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_SENTINEL_USERNAME", "REDIS_SENTINEL_PASSWORD"} {
		if settings.HasReference(e.env[name]) && (usesRedis || strings.HasPrefix(name, "CACHE_")) {
			warnings = append(warnings, name+" contains a reference to a variable, ${NAME} or $(NAME), that was not expanded; it is used as it is")
		}
	}
	return warnings
}

func (e *envReader) trimmed(name string) string { return strings.TrimSpace(e.env[name]) }

// redisVars are the variables of the fields of Redis.
var redisVars = map[string]string{
	"URL": "REDIS_URL", "Hosts": "REDIS_HOST", "Port": "REDIS_PORT", "DB": "REDIS_DB", "Username": "REDIS_USERNAME", "Password": "REDIS_PASSWORD",
	"TLS": "REDIS_TLS", "Cluster": "REDIS_CLUSTER", "SentinelMaster": "REDIS_SENTINEL_MASTER",
	"SentinelUsername": "REDIS_SENTINEL_USERNAME", "SentinelPassword": "REDIS_SENTINEL_PASSWORD",
}

// parseType accepts a backend in any case, as in REDIS.
func parseType(s string) (string, error) {
	s = strings.ToLower(s)
	return s, Config{Type: s}.validate()
}
