package settings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
)

var errHost = errors.New("host: want a name of letters, digits, '.', '-' and '_', or an IP address, with or without a port, as in redis.example.com:6379")

// SplitHost splits host:port, or a host alone, into the host, without brackets, and the
// port, which is 0 if text has none. An IPv6 address needs brackets only in front of a port.
//
// Its errors do not show text: a host that is not valid is often a URL or a connection
// string that was put into the wrong setting, with a password in it.
func SplitHost(text string) (host string, port int, err error) {
	host = text
	if h, p, err := net.SplitHostPort(text); err == nil {
		if port, err = parsePort(p); err != nil {
			if IsHost(h) && !strings.Contains(p, "@") {
				return "", 0, errors.New("port: want a port from 1 to 65535 behind the host")
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

// parsePort is stricter than [Int]: a sign, or zeros in front, is a slip in a port.
func parsePort(text string) (int, error) {
	n, err := Int(1, 65535)(text)
	if err != nil || text[0] == '+' || len(text) > 10 {
		return 0, ErrRejected
	}
	return int(n), nil
}

// IsHost reports whether host is an IP address, with or without a zone, or has the form of a
// name. A name with a number as its last label is refused as an invalid address, as 10.0.0.256
// is: no top-level domain is a number, and a resolver would only answer later that it does
// not exist.
func IsHost(host string) bool {
	if strings.Contains(host, ":") {
		addr, err := netip.ParseAddr(host)
		return err == nil && (addr.Zone() == "" || IsName(addr.Zone()))
	}
	if strings.Contains(host, "..") {
		return false
	}
	if i := strings.LastIndexByte(host, '.'); i >= 0 && number.MatchString(host[i+1:]) {
		_, err := netip.ParseAddr(host)
		return err == nil
	}
	return IsName(host)
}

// IsName reports whether name consists of the letters of a host name, and is no longer than
// one. The name of a Sentinel's master has the same letters.
func IsName(name string) bool {
	return len(name) <= 253 && hostName.MatchString(name)
}

var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	number   = regexp.MustCompile(`^[0-9]+$`)
)

// IsConnectionString reports whether text has the form host:port,password=…,ssl=True. That is
// a connection string of StackExchange.Redis, and the form in which Azure's portal shows it,
// so it is the one that users are most likely to paste.
func IsConnectionString(text string) bool {
	_, options, ok := strings.Cut(text, ",")
	return ok && strings.Contains(options, "=")
}

// ErrConnectionString returns the error for a connection string: the settings to use instead,
// by the names that name gives to their fields. It shows nothing of the string.
func ErrConnectionString(name func(string) string) error {
	return fmt.Errorf("it is a connection string of StackExchange.Redis, as Azure shows it; set %s, %s, %s and, for ssl=True, %s=true instead, or %s=rediss://:<password>@<host>:6380",
		name("Hosts"), name("Port"), name("Password"), name("TLS"), name("URL"))
}
