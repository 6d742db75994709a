package settings

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// envNames are the variables that ConfigFromEnv reads. Those of keyspaces that a service
// defines are not among them, as CACHE_TTL_SESSION: see [keyspaceVar].
var envNames = []string{
	"CACHE_ENABLED", "CACHE_TYPE", "CACHE_KEY_PREFIX", "CACHE_TTL_CHAT_MESSAGES", "CACHE_TTL_USER_CHATS", "CACHE_TTL_GENERATION",
	"CACHE_TTL_CANCEL", "CACHE_TTL_JITTER", "CACHE_REFRESH_CHAT_MESSAGES", "CACHE_REFRESH_USER_CHATS", "CACHE_TIMEOUT", "CACHE_LOAD_TIMEOUT", "CACHE_MAX_LOADS", "CACHE_AUDIT", "CACHE_MEMORY_MAX_BYTES", "CACHE_NEAR_MAX_BYTES",
	"CACHE_MAX_VALUE_BYTES", "CACHE_QUEUE_SIZE", "CACHE_REFUSE_WRITES", "REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_DB",
	"REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_TLS", "REDIS_CLUSTER", "REDIS_SENTINEL_MASTER", "REDIS_SENTINEL_USERNAME",
	"REDIS_SENTINEL_PASSWORD", "REDIS_WAIT_REPLICAS",
}

// ofKeyspaces has the prefixes of the variables that any keyspace may have, and the setting
// that they are for.
var ofKeyspaces = map[string]string{"CACHE_TTL_": "time to live", "CACHE_REFRESH_": "RefreshAfter"}

// keyspaceVar returns the prefix of a variable that any keyspace may have, or "".
func keyspaceVar(name string) string {
	for prefix := range ofKeyspaces {
		if strings.HasPrefix(name, prefix) {
			return prefix
		}
	}
	return ""
}

// otherNames has the names that other programs give to these settings. They are too far from
// the names here for [edits] to find them.
var otherNames = map[string]string{
	"CACHE_PREFIX": "CACHE_KEY_PREFIX", "CACHE_DISABLED": "CACHE_ENABLED", "CACHE_BACKEND": "CACHE_TYPE",
	"REDIS_ADDR": "REDIS_HOST", "REDIS_ADDRESS": "REDIS_HOST", "REDIS_SERVER": "REDIS_HOST", "REDIS_NODES": "REDIS_HOST",
	"REDIS_DATABASE": "REDIS_DB", "REDIS_SSL": "REDIS_TLS", "REDIS_USE_SSL": "REDIS_TLS", "REDIS_SSL_ENABLED": "REDIS_TLS", "REDIS_USE_TLS": "REDIS_TLS", "REDIS_TLS_ENABLED": "REDIS_TLS",
	"REDIS_HOSTNAME": "REDIS_HOST", "REDIS_MASTER": "REDIS_SENTINEL_MASTER", "REDIS_SENTINEL_SERVICE_NAME": "REDIS_SENTINEL_MASTER",
	"CACHE_CHAT_MESSAGES_TTL": "CACHE_TTL_CHAT_MESSAGES", "CACHE_USER_CHATS_TTL": "CACHE_TTL_USER_CHATS",
	"CACHE_REFRESH_AFTER": "CACHE_REFRESH_<NAME>, with the name of a keyspace,", "CACHE_REFRESH_AFTER_CHAT_MESSAGES": "CACHE_REFRESH_CHAT_MESSAGES", "CACHE_REFRESH_AFTER_USER_CHATS": "CACHE_REFRESH_USER_CHATS",
	"CACHE_CHAT_MESSAGES_REFRESH": "CACHE_REFRESH_CHAT_MESSAGES", "CACHE_USER_CHATS_REFRESH": "CACHE_REFRESH_USER_CHATS",
	"REDIS_SENTINEL": "REDIS_HOST", "REDIS_SENTINELS": "REDIS_HOST", "REDIS_SENTINEL_HOST": "REDIS_HOST", "REDIS_SENTINEL_HOSTS": "REDIS_HOST",
	"REDIS_SENTINEL_NODES": "REDIS_HOST", "REDIS_SENTINEL_ADDR": "REDIS_HOST", "REDIS_SENTINEL_ADDRS": "REDIS_HOST", "REDIS_SENTINEL_PORT": "REDIS_PORT",
	"REDIS_CLUSTER_HOST": "REDIS_HOST", "REDIS_CLUSTER_HOSTS": "REDIS_HOST", "REDIS_CLUSTER_NODES": "REDIS_HOST", "REDIS_CLUSTER_ADDRS": "REDIS_HOST",
	"REDIS_MASTER_NAME": "REDIS_SENTINEL_MASTER", "REDIS_MASTER_SET": "REDIS_SENTINEL_MASTER", "REDIS_SENTINEL_NAME": "REDIS_SENTINEL_MASTER",
	"REDIS_URI": "REDIS_URL", "REDIS_DSN": "REDIS_URL",
	"REDIS_USER": "REDIS_USERNAME", "REDIS_PWD": "REDIS_PASSWORD", "REDIS_AUTH": "REDIS_PASSWORD", "REDIS_PASSWD": "REDIS_PASSWORD",
}

// foreignVars matches the variables that other programs read, and those that an
// orchestrator sets for a service named redis or cache (REDIS_PORT_6379_TCP_ADDR). A warning
// about them would be in the log of every start, with nothing for anybody to mend.
// CACHE_ADMIN_TOKEN is read by the chat server in examples.
var foreignVars = regexp.MustCompile(`^(` + strings.Join([]string{
	`CACHE_ADMIN_TOKEN`,
	`(CACHE|REDIS)(_[A-Z0-9_]+)?_SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?`,
	`(CACHE|REDIS)(_[A-Z0-9_]+)?_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?`,
	`REDIS_ENV_.*|REDIS_NAME`, // links of Docker
	`REDIS_(VERSION|DOWNLOAD_URL|DOWNLOAD_SHA)`,
	`REDIS_(TLS_URL|OM_URL|CLIENT|PREFIX|CACHE_DB|BROKER_URL|SOCKET_TIMEOUT|SOCKET_CONNECT_TIMEOUT|SOCKET_KEEPALIVE)`,
	`REDIS_(MAX_CONNECTIONS|DECODE_RESPONSES|ENCODING|HEALTH_CHECK_INTERVAL|RETRY_ON_TIMEOUT|SSL_(CERT_REQS|CERTFILE|KEYFILE|KEYFILE_PASSWORD|PASSWORD|CA_CERTS?|CA_PATH|CA_DATA|CHECK_HOSTNAME|MIN_VERSION|CIPHERS)|CACHE_URL|SESSION_[A-Z_]+)`,
	`CACHE_(URL|DRIVER|STORE|DIR|LOCATION|THRESHOLD|OPTIONS|ARGS|SOURCE_CHECK|IGNORE_ERRORS|NO_NULL_WARNING|DEFAULT_TIMEOUT)`,
	`CACHE_(REDIS|MEMCACHED)_[A-Z_]+`, // of Flask-Caching
}, "|") + `)$`)

// reference matches ${NAME}, also with a default as in ${NAME:-x}, and $(NAME).
var reference = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*(:?[-+=?][^}]*)?\}|\$\([A-Za-z_][A-Za-z0-9_]*\)`)

// HasReference reports whether text has a ${NAME} in it, or a $(NAME) as in Kubernetes, also
// if it is escaped for a URL. A shell or an orchestrator should have replaced it. It does not
// look for $NAME alone, which a password may contain.
func HasReference(text string) bool {
	unescaped, err := url.PathUnescape(text)
	return reference.MatchString(text) || err == nil && reference.MatchString(unescaped)
}

// varName matches the names of variables that look like settings.
var varName = regexp.MustCompile(`^(?i:CACHE|REDIS)_[A-Za-z0-9_]{1,80}$`)

// maxUnknownVars is how many variables UnknownVars describes one by one, so that a start logs
// a screenful at most.
const maxUnknownVars = 20

// IsForeign reports whether a variable is another program's, or a service link of
// Kubernetes: CACHE_TTL_X_PORT is one, of a service cache-ttl-x, if its value is a URL.
func IsForeign(name, value string) bool {
	return foreignVars.MatchString(name) || strings.HasSuffix(strings.ToUpper(name), "_PORT") && strings.Contains(value, "://")
}

// redisURL matches the beginning of the URL of a Redis.
var redisURL = regexp.MustCompile(`^\s*(?i:rediss?|valkeys?|unix)://`)

// UnknownVars returns a sentence for each variable in env that looks like a setting of the
// cache and is not one, in order, and with the setting that was probably meant. It is for
// warnings: an unknown variable is not an error, as it may be another program's.
//
// A variable of a keyspace may have any name that is not nearly a known one, so
// CACHE_TTL_SESSION is not described and CACHE_TTL_CHAT_MESSAGE is. If usesRedis is set and
// no variable says which Redis to use, those of other programs that name a Redis are
// described too.
func UnknownVars(env map[string]string, usesRedis bool) []string {
	var out []string
	isSet := func(name string) bool { return strings.TrimSpace(env[name]) != "" }
	noRedis := usesRedis && !isSet("REDIS_URL") && !isSet("REDIS_HOST")
	for name, value := range env {
		upper := strings.ToUpper(name)
		if !isSet(name) || !varName.MatchString(name) || slices.Contains(envNames, name) {
			continue
		}
		meant, prefix := meantVar(upper), keyspaceVar(name)
		if IsForeign(name, value) {
			switch prefix = ""; {
			case noRedis && redisURL.MatchString(value):
				meant = "REDIS_URL"
			case noRedis && name == "CACHE_REDIS_HOST":
				meant = "REDIS_HOST"
			default:
				continue
			}
		}
		switch {
		case meant == "" && prefix != "":
		case meant == "":
			out = append(out, fmt.Sprintf("%s is not a setting of the cache, and not used", name))
		case prefix != "":
			out = append(out, fmt.Sprintf("%s is taken for the %s of a keyspace %q; %s was probably meant", name, ofKeyspaces[prefix], strings.ToLower(name[len(prefix):]), meant))
		default:
			out = append(out, fmt.Sprintf("%s is not a setting of the cache, and not used; %s was probably meant", name, meant))
		}
	}
	slices.Sort(out)
	if more := len(out) - maxUnknownVars; more > 0 {
		out = append(out[:maxUnknownVars], fmt.Sprintf("%d more variables are not settings of the cache", more))
	}
	return out
}

// meantVar returns the known variable with the name nearest to upper, or "" if none is near.
// A longer name may have more wrong letters, up to a quarter of those behind its prefix: the
// prefixes are alike in most names, and tell nothing.
func meantVar(upper string) string {
	if meant := otherNames[upper]; meant != "" {
		return meant
	}
	best, least := "", 1<<10
	for _, known := range envNames {
		own := known[max(len("CACHE_"), len(keyspaceVar(known))):]
		own = strings.TrimPrefix(own, "SENTINEL_")
		d := edits(upper, known)
		if d <= max(1, len(own)/4) && d < least {
			best, least = known, d
		}
	}
	if best != "" || keyspaceVar(upper) != "" {
		return best
	}
	if len(upper) < len("REDIS_PASS") { // REDIS_P is the beginning of several
		return ""
	}
	for _, known := range envNames { // REDIS_PASS, REDIS_PORT_NUMBER
		if (strings.HasPrefix(known, upper) || strings.HasPrefix(upper, known+"_")) && len(known) > len(best) {
			best = known
		}
	}
	return best
}

// edits returns the optimal string alignment distance of a and b: how many letters have to
// be left out, put in, changed or swapped with their neighbour to turn a into b. The swap is
// the reason to prefer it to Levenshtein's distance, which counts REDIS_HSOT as two slips.
func edits(a, b string) int {
	before, last := []int(nil), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
