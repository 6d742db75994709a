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

// The backends that Config.Type names.
const (
	typeRedis  = "redis"
	typeMemory = "memory"
	typeNone   = "none"
)

const defaultTimeout = 250 * time.Millisecond

// Config configures a Cache. Its zero value is a Redis on localhost.
type Config struct {
	// Type is the backend: "redis", "memory", or "none", with which the cache is off:
	// every read loads, and nothing is stored. Defaults to "redis".
	Type string

	// Redis says which Redis Open connects to. With another Type it is not looked at.
	Redis Redis

	// KeyPrefix is put in front of every key. Defaults to none, so that keys are
	// those that other programs use. What starts with it is taken for the cache's own
	// and is removed by Clear, so it ends with a separator, as in "app:": "app1" is the
	// start of "app10" too. It has no braces but a hash tag, "{tag}".
	KeyPrefix string

	// TTLs are times to live by keyspace name, and take precedence over those of
	// the keyspaces themselves. Each is from 1 ms to a year, that of generation from
	// 5 s and that of cancel from 500 ms.
	TTLs map[string]time.Duration

	// RefreshAfter are ages from which values are loaded again, by keyspace name, and take
	// precedence over those of the keyspaces themselves: see Keyspace.RefreshAfter. 0 is
	// never.
	RefreshAfter map[string]time.Duration

	// Jitter is the largest share of a value's time to live that is taken off at
	// random, so that values stored together do not expire together: 0.1 is up to
	// a tenth. Generation and cancel keys have none. Defaults to 0; at most 0.9.
	Jitter float64

	// Timeout is what one call may spend on backend commands that fail or time
	// out, altogether. Calls that come at once share round trips, and may wait for one
	// first: it should be three round trips to Redis at least. Reads of values of more
	// than 64 KiB may wait longer, ten times at most, while others like them arrive.
	// Defaults to 250 ms.
	Timeout time.Duration

	// LoadTimeout is how long a load may last, at least 1 ms. It ends the loader's
	// context, and the load even if the loader goes on: see GetOrLoad. Defaults to 5
	// minutes; negative means never.
	LoadTimeout time.Duration

	// MaxLoads is how many loads run at a time in this process; all its processes
	// together must fit the database. More wait, in the order in which they come, each for
	// as long as its callers do. A load within another needs no place of its own. Refreshes
	// of Keyspace.RefreshAfter take only places that are free, and are skipped otherwise.
	// Defaults to 0: there is no bound.
	MaxLoads int

	// Audit is the share of hits of GetOrLoad, from 0 to 1, whose value is loaded once more in the
	// background, under a lease, and compared with the hit's, when no write
	// came between: 0.001 is one in a thousand. It is how to see that nothing stale is
	// served, or to find the writer that forgot to invalidate. Stats counts the results,
	// and a difference is logged with its key, though not its value, every 10 seconds at most. The
	// loaded value is stored, as after a miss. Audits run only where a load may at once: see
	// MaxLoads. Defaults to 0.
	Audit float64

	// MemoryMaxBytes bounds the memory backend: keys, encoded values, the decoded
	// values that hits have left with them, and about 128 bytes per entry. The size of a
	// decoded value is estimated, within a factor of two but for types that hide what
	// they refer to. One that is larger than MemoryMaxBytes is not kept, and its bytes
	// are decoded by each hit. Defaults to 64 MiB.
	MemoryMaxBytes int64

	// DecodedMaxBytes bounds what this process remembers of values from Redis, or from a
	// backend of your own: their bytes with what these were decoded to, so that a hit on
	// the same bytes need not decode them again. Sizes are estimated as for
	// MemoryMaxBytes. Defaults to 64 MiB; negative remembers nothing.
	DecodedMaxBytes int64

	// NearMaxBytes, when it is positive, has values that were read from Redis kept in
	// this process as well, in so many bytes, decoded values included as for
	// MemoryMaxBytes, and served from there. Redis tells
	// which of them change. What another process changes may be read here from
	// before the change for as long as the news takes: a fraction of a
	// millisecond, or up to 2 seconds when the connection that carries it hangs. What
	// this process changes is never read from before. No value is served for longer
	// than 10 seconds after it was read, though it may be so long after its time to
	// live. Only the keyspaces that Keyspaces and TTLs name are kept, and
	// chat_messages and user_chats. It takes a connection to each master and a user who may
	// CLIENT TRACKING. Defaults to 0: there is no near cache.
	NearMaxBytes int64

	// MaxValueBytes is the size of the largest value that is stored; larger ones
	// are loaded each time. Defaults to 16 MiB.
	MaxValueBytes int64

	// QueueSize is how many undelivered invalidations are kept, some 200 bytes
	// each. When it is full, nothing cached is trusted until the keyspaces of the
	// invalidations that found no room have been cleared. Keys that are of none, which
	// only the methods of Cache take, are kept up to twice as many. Defaults to 65536.
	QueueSize int

	// RefuseWrites makes Update return ErrWriteRefused, without writing, when the
	// backend does not take the block. By default it writes: other processes may
	// then serve the old value until it expires if this one dies before it could
	// deliver the invalidation.
	RefuseWrites bool

	// WaitReplicas is how many of a Redis master's replicas must have an
	// invalidation, or a writer's block, before it counts as applied.
	// Replication is asynchronous: without this, a failover may bring back a value
	// that only the lost master had deleted. While fewer answer, each
	// invalidation takes most of Timeout and then stays queued, which distrusts its
	// key. Set it below the number of replicas. Defaults to 0.
	WaitReplicas int

	// Keyspaces names keyspaces that Clear removes when there is no KeyPrefix, and
	// that a near cache keeps, beside chat_messages, user_chats and those of TTLs.
	Keyspaces []Keyspace

	// Logger gets [CACHE HIT] and [CACHE MISS] at debug level, and at warn level that
	// trouble begins and ends, once each. Defaults to slog.Default(). The client,
	// go-redis, writes of each connection that it cannot make to standard error:
	// redis.SetLogger changes that.
	Logger *slog.Logger

	// Hooks are told of reads that were no hits, of loads, writes and trouble, in their
	// order here: for metrics and traces.
	Hooks []hook.Hooks `json:"-"`

	// Warnings are written to Logger at warn level, once, when the cache is opened.
	// ConfigFromEnv puts in them the variables that it does not know, and those that
	// have no effect beside another; they hold no values of variables. A service that
	// has variables like them of its own may remove theirs.
	Warnings []string
}

// Redis says which Redis to connect to.
type Redis struct {
	// URL is redis://, rediss:// (TLS) or unix://, with user, password and
	// database. It is in place of a host, Port and DB, which have no effect then;
	// Username and Password are used, both of them, where it has neither. It names one
	// server, which with Cluster is one of the Cluster's; it cannot name several, or
	// Sentinels. In a password, "/", "?", "#" and "%" are escaped (%2F, %3F, %23, %25).
	// Its query may have the parameters of go-redis's ParseURL (read_timeout, pool_size,
	// skip_verify and so on) and these of redis-py: ssl_cert_reqs, ssl_check_hostname,
	// ssl_ca_certs, socket_timeout, socket_connect_timeout, max_connections. Those of
	// redis-py that mean nothing here are ignored with a line in the log; others are
	// refused.
	URL string

	// Hosts are names (letters, digits, '.', '-', '_') or IP addresses, each perhaps
	// with a port. Several are a Cluster, or with SentinelMaster the Sentinels.
	// Defaults to localhost.
	Hosts []string

	// Port is that of hosts that name none. Defaults to 6379, with SentinelMaster
	// to 26379.
	Port int

	// DB is the database's number. A Cluster has only 0.
	DB int

	// Username and Password authenticate; a Username needs a Password, since go-redis
	// sends none without. They appear in no error and no log.
	Username, Password string

	// TLS connects with TLS. TLSConfig, when it is set, does too, and says how.
	TLS       bool
	TLSConfig *tls.Config

	// Cluster says that a single host is a Cluster's.
	Cluster bool

	// SentinelMaster is the name of the master to ask the Sentinels for.
	SentinelMaster string

	// SentinelUsername and SentinelPassword authenticate with the Sentinels, for
	// which Username and Password are not used. They appear in no error and no log, but for
	// that of go-redis where a Sentinel is so old that it does not know AUTH, and repeats it.
	SentinelUsername, SentinelPassword string
}

// withDefaults returns cfg with its defaults filled in, or an error that names
// everything that is wrong with it.
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

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("aside: "+format, args...)) }
	switch c.Type {
	case "", typeRedis, typeMemory, typeNone:
	default:
		bad("Config.Type: %q, %q or %q is accepted", typeRedis, typeMemory, typeNone) // a URL came here, perhaps
	}
	if p := c.KeyPrefix; strings.ContainsAny(p, "{}") && (strings.Count(p, "{") != 1 || strings.Count(p, "}") != 1 || redisstore.HashTag(p) == p) {
		bad("Config.KeyPrefix %q: braces are accepted only as one hash tag, {tag}", p)
	}
	if strings.HasPrefix(c.KeyPrefix, "lease:") || len(c.KeyPrefix) > 256 {
		bad("Config.KeyPrefix %.80q: at most 256 bytes that do not start with \"lease:\" are accepted", c.KeyPrefix)
	}
	if last, _ := utf8.DecodeLastRuneInString(c.KeyPrefix); unicode.In(last, unicode.L, unicode.M, unicode.N) {
		bad("Config.KeyPrefix %.80q: it ends within a word, so that other programs' keys may start with it as well; a prefix that ends with a separator, such as %.81q, is accepted", c.KeyPrefix, c.KeyPrefix+":")
	}
	for name, ttl := range c.TTLs {
		if !isName(name) {
			bad("Config.TTLs[%.80q]: as names of keyspaces, %s are accepted", name, acceptedNames)
		}
		if least := leastTTL(name); ttl < least || ttl > maxTTL {
			bad("Config.TTLs[%.80q] %v: from %v to %v (one year) is accepted", name, ttl, least, maxTTL)
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
			bad("Config.RefreshAfter[%.80q]: as names of keyspaces, %s are accepted", name, acceptedNames)
		case isState(name):
			bad("Config.RefreshAfter[%.80q]: the keyspace is not loaded, so it cannot be refreshed", name)
		case after != 0 && !isTTL(after):
			bad("Config.RefreshAfter[%.80q] %v: from %v to the time to live is accepted, or 0 for never", name, after, minTTL)
		case known || hasTTL: // or its time to live is not known yet
			if err := ages.checkRefresh(&s); err != nil {
				bad("Config.RefreshAfter: %w", err)
			}
		}
	}
	if !(c.Jitter >= 0 && c.Jitter <= 0.9) {
		bad("Config.Jitter %v: from 0 to 0.9 is accepted", c.Jitter)
	}
	if !(c.Audit >= 0 && c.Audit <= 1) {
		bad("Config.Audit %v: from 0 to 1 is accepted", c.Audit)
	}
	if c.Timeout < 0 || c.Timeout > 0 && c.Timeout < time.Millisecond {
		bad("Config.Timeout %v: at least 1ms is accepted", c.Timeout)
	}
	if c.LoadTimeout > 0 && c.LoadTimeout < time.Millisecond {
		bad("Config.LoadTimeout %v: at least 1ms is accepted, or less than 0 for never", c.LoadTimeout)
	}
	if c.MemoryMaxBytes < 0 || c.NearMaxBytes < 0 || c.MaxValueBytes < 0 || c.QueueSize < 0 || c.WaitReplicas < 0 || c.MaxLoads < 0 {
		bad("Config.MemoryMaxBytes %d, NearMaxBytes %d, MaxValueBytes %d, QueueSize %d, WaitReplicas %d, MaxLoads %d: they cannot be negative", c.MemoryMaxBytes, c.NearMaxBytes, c.MaxValueBytes, c.QueueSize, c.WaitReplicas, c.MaxLoads)
	}
	if c.Type != typeMemory && c.Type != typeNone { // Redis is used
		_, _, wrong := c.Redis.resolve()
		errs = append(errs, wrong...)
	}
	return errors.Join(errs...)
}
