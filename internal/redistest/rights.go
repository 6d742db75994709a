package redistest

import (
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// SetUser adds a user with rights, in the form of ACL SETUSER, to the server.
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

// Rights returns rights in the form that the redis-server on the PATH accepts. Redis before 6.2
// has no rights to single channels, and each user may use all. For it, rights to channels are
// left out, and resetchannels becomes the loss of the commands themselves.
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

// hasChannelRights reports whether the redis-server on the PATH is 6.2 or later. An unknown
// version counts as later.
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
