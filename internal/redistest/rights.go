package redistest

import (
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// SetUser gives the server a user with the rights.
func (s *Server) SetUser(name string, rights ...string) {
	s.t.Helper()
	args := []any{"ACL", "SETUSER", name}
	for _, right := range Rights(rights...) {
		args = append(args, right)
	}
	if err := s.Client().Do(context.Background(), args...).Err(); err != nil {
		s.t.Fatalf("ACL SETUSER %s: %v", name, err)
	}
}

// Rights returns the rights as the redis-server on the PATH takes them. Before 6.2 all
// users have the right to all channels: rights to some of them are left out, and
// resetchannels takes the commands instead.
func Rights(rights ...string) (out []string) {
	for _, right := range rights {
		switch {
		case hasChannelRights(), right != "resetchannels" && !strings.HasPrefix(right, "&"):
			out = append(out, right)
		case right == "resetchannels":
			out = append(out, "-subscribe", "-psubscribe", "-publish")
		}
	}
	return out
}

var version = regexp.MustCompile(`v=(\d+)\.(\d+)\.`)

var hasChannelRights = sync.OnceValue(func() bool {
	text, _ := exec.Command("redis-server", "--version").Output()
	found := version.FindSubmatch(text)
	if found == nil {
		return true
	}
	major, _ := strconv.Atoi(string(found[1]))
	minor, _ := strconv.Atoi(string(found[2]))
	return major > 6 || major == 6 && minor >= 2
})
