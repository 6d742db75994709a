package aside

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/redisstore"
)

// The backends that Config.Type can name.
const (
	typeRedis  = "redis"
	typeMemory = "memory"
	typeNone   = "none"
)

const defaultTimeout = 250 * time.Millisecond

// Config configures a Cache. Its zero value means a Redis on localhost with every default
// below. [ConfigFromEnv] reads one from the environment variables named here. [Open],
// [NewRedis] and [New] report every invalid field in one error. A number or duration must
// not be negative where its comment gives negative values no meaning.
type Config struct {
	// Type is the backend: "redis", "memory", or "none". With "none" the cache is off: every
	// read loads and nothing is stored. New and NewRedis ignore it. Set by CACHE_TYPE, and
	// to "none" by CACHE_ENABLED=false. Defaults to "redis".
	Type string

	// Redis is the server to connect to. Only Open with Type "redis" uses it. Set by the
	// REDIS_ variables, see Redis. Defaults to localhost:6379.
	Redis Redis

	// KeyPrefix is put in front of every key. Every key that starts with it belongs to the
	// cache, and Clear removes it, so it must end with a separator, as in "app:": "app1" is
	// also the start of "app10". It must have at most 256 bytes, must not start with
	// "lease:", and may contain braces only as one hash tag, {tag}. Set by CACHE_KEY_PREFIX.
	// Defaults to "", so that keys are the ones that other programs use.
	KeyPrefix string

	// TTLs are times to live by keyspace name. They take precedence over Keyspace.TTL. Each
	// is from 1 ms to a year; the keyspace generation needs at least 5 s, and cancel at
	// least 500 ms. Set by CACHE_TTL_<NAME>. Defaults to none.
	TTLs map[string]time.Duration

	// RefreshAfter are ages, by keyspace name, from which values are loaded again in the
	// background. They take precedence over Keyspace.RefreshAfter, which has the rules. 0
	// means never. Set by CACHE_REFRESH_<NAME>. Defaults to none.
	RefreshAfter map[string]time.Duration

	// Jitter is the largest share of a value's time to live that is taken off at random, so
	// that values stored together do not expire together: 0.1 takes off up to a tenth.
	// Generation and cancel keys have no jitter. Must be from 0 to 0.9. Set by
	// CACHE_TTL_JITTER. Defaults to 0.
	Jitter float64

	// Timeout is the time budget: the most that one call may spend, in total, on backend
	// commands that fail or time out. Calls made at the same time share round trips and may
	// have to wait for one first, so it should be at least three round trips to Redis. A
	// read of a value of more than 64 KiB may wait up to ten times as long while other such
	// values arrive. Must be at least 1 ms. Set by CACHE_TIMEOUT. Defaults to 250 ms.
	Timeout time.Duration

	// LoadTimeout is the most that one load may take. It ends the loader's context, and the
	// load even if the loader goes on: see GetOrLoad. Must be at least 1 ms; negative means
	// no limit. Set by CACHE_LOAD_TIMEOUT. Defaults to 5 minutes.
	LoadTimeout time.Duration

	// MaxLoads is the number of loads that may run at a time in this process; the sum over
	// all processes must fit the database. Further loads wait in order of arrival, each as
	// long as its callers do. A load within another load needs no place of its own.
	// Refreshes (RefreshAfter) and audits never wait for a place: if none is free, they are
	// skipped. Set by CACHE_MAX_LOADS. Defaults to 0: no limit.
	MaxLoads int

	// Audit is the share of GetOrLoad's hits, from 0 to 1, that are audited: the value is
	// loaded once more in the background, under a lease, and compared with the hit's, unless
	// a write came between. An audit shows in production that nothing stale is served, or
	// finds the writer that forgets to invalidate. Stats counts the results. A difference is
	// logged with its key but without its value, at most every 10 seconds. The loaded value
	// is stored, as after a miss. 0.001 audits one hit in a thousand. Set by CACHE_AUDIT.
	// Defaults to 0.
	Audit float64

	// MemoryMaxBytes is the size of the memory backend, in bytes: keys, encoded values,
	// values decoded by hits and kept with them, and about 128 bytes per entry. The size of
	// a decoded value is an estimate, within a factor of two except for types that hide the
	// memory they refer to. A decoded value larger than MemoryMaxBytes is not kept, so each
	// hit decodes its bytes. Other backends do not use it. Set by CACHE_MEMORY_MAX_BYTES.
	// Defaults to 64 MiB.
	MemoryMaxBytes int64

	// DecodedMaxBytes is the size, in bytes, of a memo that this process keeps with Redis or
	// a custom backend: encoded values beside their decoded ones, so that a hit on unchanged
	// bytes is not decoded again. Sizes are estimated as for MemoryMaxBytes. Negative means
	// no memo. Set by CACHE_MEMORY_MAX_BYTES. Defaults to 64 MiB.
	DecodedMaxBytes int64

	// NearMaxBytes enables the near cache and is its size in bytes, decoded values included:
	// copies, in this process, of values read from Redis. Redis announces changes to them
	// (client-side caching).
	//
	// A write by this process is visible in it at once. A write by another process is
	// visible when its announcement arrives: usually within a millisecond, at most 2 seconds
	// later if the connection hangs. No copy is served for more than 10 seconds after it was
	// read, which may be after its time to live has ended.
	//
	// The near cache holds the keyspaces chat_messages and user_chats, and those named in
	// Keyspaces or TTLs. It needs one more connection per master, and permission for CLIENT
	// TRACKING. Other backends do not use it. Set by CACHE_NEAR_MAX_BYTES. Defaults to 0: no
	// near cache.
	NearMaxBytes int64

	// MaxValueBytes is the size, in bytes, of the largest encoded value that is stored. A
	// larger value is returned, and loaded each time. Set by CACHE_MAX_VALUE_BYTES. Defaults
	// to 16 MiB.
	MaxValueBytes int64

	// QueueSize is the number of undelivered invalidations that are kept, about 200 bytes
	// each. When the queue is full, every key is distrusted until the keyspaces of the
	// invalidations that found no room have been cleared. Keys of no known keyspace, which
	// only the methods of Cache can name, may fill it up to twice QueueSize; further ones
	// are refused. Set by CACHE_QUEUE_SIZE. Defaults to 65536.
	QueueSize int

	// RefuseWrites makes Update return ErrWriteRefused, without writing, when the backend
	// does not take its block. Without it Update writes, and if this process then dies
	// before it delivers the invalidation, other processes serve the old value until it
	// expires. Set by CACHE_REFUSE_WRITES. Defaults to false.
	RefuseWrites bool

	// WaitReplicas is the number of a Redis master's replicas that must acknowledge an
	// invalidation, or a writer's block, before it counts as applied (WAIT). Replication is
	// asynchronous: without this, a failover may bring back a value that only the lost
	// master had deleted. While fewer replicas answer, each invalidation takes most of
	// Timeout and then stays queued, which distrusts its key, so set it below the number of
	// replicas. Set by REDIS_WAIT_REPLICAS. Defaults to 0.
	WaitReplicas int

	// Keyspaces are the service's own keyspaces. Clear removes them when there is no
	// KeyPrefix, and the near cache holds them, beside chat_messages, user_chats and those
	// named in TTLs. Defaults to none.
	Keyspaces []Keyspace

	// Logger receives [CACHE HIT] and [CACHE MISS] at debug level, the start of trouble at
	// warn level, once, and its end at info level. go-redis logs failed connection attempts
	// itself, to standard error; redis.SetLogger redirects that. Defaults to slog.Default().
	Logger *slog.Logger

	// Hooks are called, in the order of the slice, for reads that are not hits, for loads,
	// for writes, and when trouble begins and ends: see package hook. They are for metrics
	// and traces. Defaults to none.
	Hooks []hook.Hooks `json:"-"`

	// Warnings are logged at warn level when the cache is opened. ConfigFromEnv fills them
	// with the variables that it does not know and those that have no effect beside another;
	// they contain no value of a variable. A service with such variables of its own may
	// remove their warnings. Defaults to none.
	Warnings []string
}

// Redis says which Redis to connect to: one server, a Cluster, or the master that
// Sentinels name. Printed with any verb, or as text, it shows no secret.
type Redis struct {
	// URL is redis://, rediss:// (TLS) or unix://, with user, password and database. It
	// replaces the host, Port and DB, which then have no effect. Username and Password apply
	// if the URL has neither.
	//
	// It names one server, which with Cluster is a node of the Cluster; it cannot name
	// several, or Sentinels. In its password "/", "?", "#" and "%" must be escaped (%2F,
	// %3F, %23, %25).
	//
	// Its query may have the parameters of go-redis's ParseURL (read_timeout, pool_size,
	// skip_verify and so on) and these of redis-py: ssl_cert_reqs, ssl_check_hostname,
	// ssl_ca_certs, socket_timeout, socket_connect_timeout, max_connections. Parameters of
	// redis-py without a meaning here are ignored with a line in the log; any other is
	// refused. Set by REDIS_URL. Defaults to "".
	URL string

	// Hosts are names (letters, digits, '.', '-', '_') or IP addresses, each optionally with
	// a port. Several hosts are a Cluster, or with SentinelMaster the Sentinels. Set by
	// REDIS_HOST, separated by commas. Defaults to localhost.
	Hosts []string

	// Port is the port of hosts that name none. Set by REDIS_PORT. Defaults to 6379, with
	// SentinelMaster to 26379.
	Port int

	// DB is the number of the database. A Cluster has only 0. Set by REDIS_DB. Defaults to
	// 0.
	DB int

	// Username and Password authenticate. A Username needs a Password, since go-redis sends
	// none without. They appear in no error and no log. Set by REDIS_USERNAME and
	// REDIS_PASSWORD. Default to none.
	Username, Password string

	// TLS enables TLS with default settings, of version 1.2 at least. A non-nil TLSConfig
	// enables it with its own. Set by REDIS_TLS; TLSConfig has no variable. Defaults to no
	// TLS.
	TLS       bool
	TLSConfig *tls.Config

	// Cluster says that a single host is a node of a Redis Cluster. Several hosts always
	// are, unless SentinelMaster is set. Set by REDIS_CLUSTER. Defaults to false.
	Cluster bool

	// SentinelMaster is the name of the master to ask the Sentinels for; Hosts are then the
	// Sentinels. Set by REDIS_SENTINEL_MASTER. Defaults to none.
	SentinelMaster string

	// SentinelUsername and SentinelPassword authenticate with the Sentinels, which never
	// receive Username and Password. They appear in no error and no log, with one exception:
	// a Sentinel too old to know AUTH repeats the command in its error, which go-redis logs.
	// Set by REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD. Default to none.
	SentinelUsername, SentinelPassword string
}

// withDefaults returns a copy of c with its defaults filled in, or an error that names
// every invalid field. Maps are cloned, so that the caller may change its own afterwards.
func (c Config) withDefaults() (Config, error) {
	if err := c.validate(); err != nil {
		return c, err
	}
	c.TTLs, c.RefreshAfter = maps.Clone(c.TTLs), maps.Clone(c.RefreshAfter)
	setDefault(&c.Type, typeRedis)
	setDefault(&c.Timeout, defaultTimeout)
	setDefault(&c.LoadTimeout, 5*time.Minute)
	setDefault(&c.MemoryMaxBytes, 64<<20)
	setDefault(&c.DecodedMaxBytes, 64<<20)
	setDefault(&c.MaxValueBytes, 16<<20)
	setDefault(&c.QueueSize, 65536)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

// setDefault sets a field that has its zero value.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate returns every invalid field in one error, so that a service is not restarted
// once for each mistake. Values that may be secrets under a wrong name, such as a URL as
// the Type, are not shown.
func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("aside: "+format, args...)) }
	switch c.Type {
	case "", typeRedis, typeMemory, typeNone:
	default:
		bad("Config.Type: want %q, %q or %q", typeRedis, typeMemory, typeNone) // its value is not shown: it may be a URL
	}
	if p := c.KeyPrefix; strings.ContainsAny(p, "{}") && (strings.Count(p, "{") != 1 || strings.Count(p, "}") != 1 || redisstore.HashTag(p) == p) {
		bad("Config.KeyPrefix %q: want no braces except one hash tag, {tag}", p)
	}
	if strings.HasPrefix(c.KeyPrefix, "lease:") || len(c.KeyPrefix) > 256 {
		bad("Config.KeyPrefix %.80q: want at most 256 bytes that do not start with \"lease:\"", c.KeyPrefix)
	}
	if last, _ := utf8.DecodeLastRuneInString(c.KeyPrefix); unicode.In(last, unicode.L, unicode.M, unicode.N) {
		bad("Config.KeyPrefix %.80q: want a separator at its end, as in %.81q, so that no other program's keys start with it", c.KeyPrefix, c.KeyPrefix+":")
	}
	for name, ttl := range c.TTLs {
		if !isName(name) {
			bad("Config.TTLs[%.80q]: want a keyspace name of %s", name, acceptedNames)
		}
		if least := leastTTL(name); ttl < least || ttl > maxTTL {
			bad("Config.TTLs[%.80q] %v: want from %v to %v (one year)", name, ttl, least, maxTTL)
		}
	}
	ages := ttlPolicy{byName: c.TTLs, refreshes: c.RefreshAfter, jitter: c.Jitter}
	spaces := map[string]Keyspace{chatMessages.Name: chatMessages, userChats.Name: userChats}
	for _, s := range c.Keyspaces {
		spaces[s.Name] = s
		if err := s.check(); err != nil {
			bad("Config.Keyspaces: %w", err)
		} else if err := ages.checkRefresh(&s); s.RefreshAfter != 0 && err != nil {
			bad("Config.Keyspaces: %w", err)
		}
	}
	for name, after := range c.RefreshAfter {
		s, known := spaces[name]
		s.Name = name
		switch _, hasTTL := c.TTLs[name]; {
		case !isName(name):
			bad("Config.RefreshAfter[%.80q]: want a keyspace name of %s", name, acceptedNames)
		case isState(name):
			bad("Config.RefreshAfter[%.80q]: want a keyspace whose values are loaded; this one holds states, which cannot be refreshed", name)
		case after != 0 && !isTTL(after):
			bad("Config.RefreshAfter[%.80q] %v: want from %v to the time to live, or 0 for never", name, after, minTTL)
		case known || hasTTL: // otherwise its time to live is not known before GetOrLoad
			if err := ages.checkRefresh(&s); err != nil {
				bad("Config.RefreshAfter: %w", err)
			}
		}
	}
	if !(c.Jitter >= 0 && c.Jitter <= 0.9) { // NaN is neither
		bad("Config.Jitter %v: want from 0 to 0.9", c.Jitter)
	}
	if !(c.Audit >= 0 && c.Audit <= 1) {
		bad("Config.Audit %v: want from 0 to 1", c.Audit)
	}
	if c.Timeout < 0 || c.Timeout > 0 && c.Timeout < time.Millisecond {
		bad("Config.Timeout %v: want at least 1ms, or 0 for the default", c.Timeout)
	}
	if c.LoadTimeout > 0 && c.LoadTimeout < time.Millisecond {
		bad("Config.LoadTimeout %v: want at least 1ms, or a negative duration for no limit", c.LoadTimeout)
	}
	if c.MemoryMaxBytes < 0 || c.NearMaxBytes < 0 || c.MaxValueBytes < 0 || c.QueueSize < 0 || c.WaitReplicas < 0 || c.MaxLoads < 0 {
		bad("Config.MemoryMaxBytes %d, NearMaxBytes %d, MaxValueBytes %d, QueueSize %d, WaitReplicas %d, MaxLoads %d: want none below 0", c.MemoryMaxBytes, c.NearMaxBytes, c.MaxValueBytes, c.QueueSize, c.WaitReplicas, c.MaxLoads)
	}
	if c.Type != typeMemory && c.Type != typeNone { // only then is Redis used
		_, _, wrong := c.Redis.resolve()
		errs = append(errs, wrong...)
	}
	return errors.Join(errs...)
}
