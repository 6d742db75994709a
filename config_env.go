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
// [os.Environ] returns them; of several with one name the last one counts. A variable
// that is absent or empty leaves its default. The error names every variable that is
// wrong and what would be accepted; it shows no password.
//
//	CACHE_ENABLED           true or false (true)
//	CACHE_TYPE              redis, memory or none (redis)
//	CACHE_KEY_PREFIX        in front of every key; ends with a separator, as app: ()
//	CACHE_TTL_CHAT_MESSAGES time to live (1800)
//	CACHE_TTL_USER_CHATS    time to live (600)
//	CACHE_TTL_GENERATION    time to live, from 5s (300)
//	CACHE_TTL_CANCEL        time to live, from 500ms (60)
//	CACHE_TTL_<NAME>        time to live of the keyspace <name>, in lower case
//	CACHE_TTL_JITTER        share taken off at random, 0 to 0.9 (0)
//	CACHE_REFRESH_<NAME>    RefreshAfter of the keyspace <name>, in lower case; 0 is never
//	CACHE_TIMEOUT           what a call may spend on trouble (250ms)
//	CACHE_LOAD_TIMEOUT      when a loader's context ends (5m)
//	CACHE_MAX_LOADS         loads that run at a time in this process (0: no bound)
//	CACHE_AUDIT             share of hits loaded once more, and compared, 0 to 1 (0)
//	CACHE_MEMORY_MAX_BYTES  MemoryMaxBytes and DecodedMaxBytes (67108864)
//	CACHE_NEAR_MAX_BYTES    bound of the near cache of a Redis (0: none)
//	CACHE_MAX_VALUE_BYTES   size of the largest value stored (16777216)
//	CACHE_QUEUE_SIZE        undelivered invalidations kept (65536)
//	CACHE_REFUSE_WRITES     true: no write without its block in the cache (false)
//	REDIS_URL               redis://, rediss:// or unix://, in place of the next three,
//	                        which have no effect then
//	REDIS_HOST              host, or several, separated by commas (localhost)
//	REDIS_PORT              1 to 65535 (6379; 26379 for Sentinels)
//	REDIS_DB                0 or more (0)
//	REDIS_USERNAME, REDIS_PASSWORD
//	                        a user name needs a password
//	REDIS_TLS               true or false (false)
//	REDIS_CLUSTER           true: a single REDIS_HOST is a Cluster's (false)
//	REDIS_SENTINEL_MASTER   the master's name; REDIS_HOST are then the Sentinels
//	REDIS_SENTINEL_USERNAME, REDIS_SENTINEL_PASSWORD
//	                        of the Sentinels, where they ask for them
//	REDIS_WAIT_REPLICAS     replicas that must have an invalidation (0)
//
// Times to live, ages and time-outs are seconds (1800) or Go durations (30m). Where the
// cache is not on Redis, REDIS_ variables are not read.
//
// Config.Warnings lists the variables that are set and have no effect, such as a
// REDIS_HOST beside REDIS_URL, and the ${NAME} that were not expanded. It lists other
// variables whose names begin with CACHE_ or REDIS_, each with the name that was
// probably meant; those of other programs that are known, such as REDIS_SERVICE_HOST,
// only where they have the address of a Redis and there is neither a REDIS_URL nor a
// REDIS_HOST.
func ConfigFromEnv(environ []string) (Config, error) {
	env := make(map[string]string, len(environ))
	e := envReader{env: env}
	for i, variable := range environ {
		name, value, ok := strings.Cut(variable, "=")
		if !ok { // it may be a secret
			e.errs = append(e.errs, fmt.Errorf("aside: variable %d of the environment has no '=': NAME=value is accepted", i+1))
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
	readVar(&e, "CACHE_KEY_PREFIX", "at most 256 bytes that end with a separator, such as app:, and have no braces but one hash tag, {tag},", &c.KeyPrefix, func(s string) (string, error) {
		return s, Config{KeyPrefix: s}.validate()
	})
	readVar(&e, "CACHE_TTL_JITTER", "a number from 0 to 0.9", &c.Jitter, settings.Float(0, 0.9))
	readVar(&e, "CACHE_TIMEOUT", "seconds or a duration like 250ms, from 1ms to 1h,", &c.Timeout, settings.Duration(time.Millisecond, time.Hour))
	if _, err := strconv.ParseFloat(e.trimmed("CACHE_TIMEOUT"), 64); err == nil && c.Timeout > 10*time.Second {
		e.warnings = append(e.warnings, "CACHE_TIMEOUT is a number above 10 without a unit, which is seconds; milliseconds, as in 250ms, were perhaps meant")
	}
	readVar(&e, "CACHE_LOAD_TIMEOUT", "seconds or a duration like 5m, from 1ms to 24h,", &c.LoadTimeout, settings.Duration(time.Millisecond, 24*time.Hour))
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

type envReader struct {
	env      map[string]string
	warnings []string
	errs     []error
}

// readVar parses a variable into field. The error of parse says only that the text is
// wrong; the message says what is accepted, and shows the text only if it is a number
// or a duration. Any other may be a secret that came under a wrong name. ok is false when
// there is such an error.
func readVar[T any](e *envReader, name, accepted string, field *T, parse func(string) (T, error)) (ok bool) {
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
		e.errs = append(e.errs, fmt.Errorf("aside: %s%s: %s is accepted", name, shown, accepted))
		return false
	}
	*field = v
	return true
}

// ofKeyspaces calls read for each variable with the prefix that is set and names a
// keyspace. Two of one keyspace are an error.
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
			e.errs = append(e.errs, fmt.Errorf("aside: %s: as the name of a keyspace, %s are accepted", name, acceptedNames))
			continue
		}
		if other, ok := spelt[space]; ok {
			e.errs = append(e.errs, fmt.Errorf("aside: %s and %s: both are %s of the keyspace %q; set one of them", other, name, meaning, space))
			continue
		}
		spelt[space] = name
		read(name, space)
	}
}

func (e *envReader) ttls(ttls map[string]time.Duration) {
	e.ofKeyspaces("CACHE_TTL_", "the time to live", func(name, space string) {
		ttl, least := ttls[space], leastTTL(space)
		if readVar(e, name, fmt.Sprintf("seconds (1800) or a duration (30m), from %v to one year,", least), &ttl, settings.Duration(least, maxTTL)) {
			ttls[space] = ttl
		} else {
			delete(ttls, space) // no age can be compared with it
		}
	})
}

// refreshes reads the ages from which values are loaded again. It compares them with the
// times to live that are known here; Open and GetOrLoad do with those of keyspaces.
func (e *envReader) refreshes(c *Config) {
	e.ofKeyspaces("CACHE_REFRESH_", "the RefreshAfter", func(name, space string) {
		if isState(space) {
			e.errs = append(e.errs, fmt.Errorf("aside: %s: values of the keyspace %q are not loaded, so they cannot be refreshed; only keyspaces of values that are loaded are accepted", name, space))
			return
		}
		var after time.Duration
		if !readVar(e, name, "seconds (1200) or a duration (20m), from 1ms to the keyspace's time to live less CACHE_TTL_JITTER, or 0 for never,", &after, parseAge) {
			return
		}
		if c.RefreshAfter == nil {
			c.RefreshAfter = make(map[string]time.Duration)
		}
		c.RefreshAfter[space] = after
		ttl, ok := c.TTLs[space]
		if least := (&ttlPolicy{jitter: c.Jitter}).least(ttl); ok && after > least {
			e.errs = append(e.errs, fmt.Errorf("aside: %s %v: at most %v is accepted, CACHE_TTL_%s (%v) less CACHE_TTL_JITTER (%v)",
				name, after, least, strings.ToUpper(space), ttl, c.Jitter))
		}
	})
}

// parseAge reads a time to live, or 0.
func parseAge(s string) (time.Duration, error) {
	if d, err := settings.Duration(0, 0)(s); err == nil {
		return d, nil
	}
	return settings.Duration(minTTL, maxTTL)(s)
}

// redis reads the settings of Redis. Those that have no effect beside another are not
// in the Config, and get a warning.
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
	// A password may begin or end with a blank.
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
	// Kubernetes sets it to a URL, for a Service that is named redis.
	isLink := strings.Contains(e.env["REDIS_PORT"], "://")
	if r.usesPort() {
		accepted := "a port from 1 to 65535"
		if isLink {
			accepted += ` (a URL here is a service link of Kubernetes: set enableServiceLinks: false in the pod's spec, or REDIS_PORT itself)`
		}
		readVar(e, "REDIS_PORT", accepted, &r.Port, number(1, 65535))
	}
	_, notes, errs := r.resolveFrom(source{
		name: func(field string) string { return redisVars[field] },
		has: func(field string) bool {
			return r.has(field) || e.trimmed(redisVars[field]) != "" && !(field == "Port" && isLink)
		},
	})
	for _, note := range notes {
		if len(note.fields) > 0 { // others come from Open
			e.warnings = append(e.warnings, note.text)
			r.drop(note.fields)
		}
	}
	if len(errs) > 0 { // the Config that comes with an error may be printed
		r.URL, r.Hosts, r.SentinelMaster = "", nil, ""
	}
	e.errs = append(e.errs, errs...)
}

// references warns of the texts that somebody else was to complete. A password may look
// like one, so they are used as they are.
func (e *envReader) references(usesRedis bool) (warnings []string) {
	for _, name := range []string{"CACHE_KEY_PREFIX", "REDIS_URL", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_SENTINEL_USERNAME", "REDIS_SENTINEL_PASSWORD"} {
		if settings.HasReference(e.env[name]) && (usesRedis || strings.HasPrefix(name, "CACHE_")) {
			warnings = append(warnings, name+" has a reference to a variable in it, as ${NAME} or $(NAME), that was not expanded, and is used as it is")
		}
	}
	return warnings
}

func (e *envReader) trimmed(name string) string { return strings.TrimSpace(e.env[name]) }

var redisVars = map[string]string{
	"URL": "REDIS_URL", "Hosts": "REDIS_HOST", "Port": "REDIS_PORT", "DB": "REDIS_DB", "Username": "REDIS_USERNAME", "Password": "REDIS_PASSWORD",
	"TLS": "REDIS_TLS", "Cluster": "REDIS_CLUSTER", "SentinelMaster": "REDIS_SENTINEL_MASTER",
	"SentinelUsername": "REDIS_SENTINEL_USERNAME", "SentinelPassword": "REDIS_SENTINEL_PASSWORD",
}

func parseType(s string) (string, error) {
	s = strings.ToLower(s)
	return s, Config{Type: s}.validate()
}
