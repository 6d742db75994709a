package settings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
)

var errHost = errors.New("host: a name of letters, digits, '.', '-' and '_', or an IP address, perhaps with a port, as in redis.example.com:6379, is accepted")

// SplitHost returns the host, without brackets, and the port, or 0 where there is none.
// Its errors do not show the text.
func SplitHost(text string) (host string, port int, err error) {
	host = text
	if h, p, err := net.SplitHostPort(text); err == nil {
		if port, err = parsePort(p); err != nil {
			if IsHost(h) && !strings.Contains(p, "@") {
				return "", 0, errors.New("port: behind the host, a port from 1 to 65535 is accepted")
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

func parsePort(text string) (int, error) {
	n, err := Int(1, 65535)(text)
	if err != nil || text[0] == '+' || len(text) > 10 {
		return 0, ErrRejected
	}
	return int(n), nil
}

// IsHost reports whether host is an IP address, perhaps with a zone, or may be a name. A
// name whose last label is a number is an address that is wrong, as 10.0.0.256 is.
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

// IsName reports whether name is of the letters of a host's, as that of a Sentinel's
// master is.
func IsName(name string) bool {
	return len(name) <= 253 && hostName.MatchString(name)
}

var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	number   = regexp.MustCompile(`^[0-9]+$`)
)

// IsConnectionString reports whether text has the form of StackExchange.Redis, which is
// Azure's: host:port,password=…,ssl=True.
func IsConnectionString(text string) bool {
	_, options, ok := strings.Cut(text, ",")
	return ok && strings.Contains(options, "=")
}

func ErrConnectionString(name func(string) string) error {
	return fmt.Errorf("it is a connection string of StackExchange.Redis, as Azure shows it, which is not accepted: set %s, %s, %s and for ssl=True %s=true, or %s=rediss://:<password>@<host>:6380",
		name("Hosts"), name("Port"), name("Password"), name("TLS"), name("URL"))
}
