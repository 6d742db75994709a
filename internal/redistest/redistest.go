// Package redistest starts real Redis servers for tests: one ([Start]), a Cluster
// ([StartCluster]), or a master with replicas and a Sentinel ([StartSentinel]). Each uses free
// ports and temporary folders, and ends with its test. A test is skipped where the programs are not
// installed ([Require]).
package redistest

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a server process of the test's own: a free port, a temporary folder,
// nothing saved to disk unless its arguments say so. It ends with the test.
type Server struct {
	Addr string
	Dir  string

	t    testing.TB
	name string
	args []string
	cmd  *exec.Cmd
}

var missing sync.Once

// Require skips the test where there is no such program on the PATH, and fails it
// if ASIDE_TEST_REQUIRE_REDIS is set. ASIDE_TEST_NO_REDIS skips it anyway.
func Require(t testing.TB, program string) {
	t.Helper()
	if os.Getenv("ASIDE_TEST_NO_REDIS") != "" {
		t.Skip("ASIDE_TEST_NO_REDIS is set")
	}
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("ASIDE_TEST_REQUIRE_REDIS") != "" {
		t.Fatalf("%s is not on the PATH", program)
	}
	missing.Do(func() { t.Logf("%s is not on the PATH: tests with the real one are skipped", program) })
	t.Skipf("no %s on the PATH", program)
}

// Start starts redis-server with args after its own, and waits until it answers.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := New(t, args...)
	s.Start()
	return s
}

// New makes a server that is not started yet.
func New(t testing.TB, args ...string) *Server {
	t.Helper()
	Require(t, "redis-server")
	port := strconv.Itoa(FreePort(t))
	dir := t.TempDir()
	s := &Server{
		Addr: net.JoinHostPort("127.0.0.1", port), Dir: dir, t: t, name: "redis-server",
		args: append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no", "--logfile", filepath.Join(dir, "redis.log")}, args...),
	}
	t.Cleanup(s.Kill)
	return s
}

// Args adds arguments, which win over those before.
func (s *Server) Args(args ...string) { s.args = append(s.args, args...) }

// FreePort returns a port that is free, and so is the one that is 10000 above it,
// which a node of a Cluster uses as well. It is below those that the system gives
// to outgoing connections.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 12000 + (firstPort+int(ports.Add(1)))%10000
		if isFree(port) && isFree(port+10000) {
			return port
		}
	}
	t.Fatal("found no free port")
	return 0
}

// Ports are given one after another, so that none is given to two tests of a process,
// also while the server that it was given to is away.
var (
	firstPort = rand.IntN(10000)
	ports     atomic.Int32
)

func isFree(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// Start starts the server, again after Kill, and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	s.Launch()
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer c.Close()
	Eventually(s.t, s.name+" answers", func() bool {
		// And not another server that came to its port.
		return strings.Contains(c.Info(context.Background(), "server").Val(), "process_id:"+strconv.Itoa(s.cmd.Process.Pid)+"\r\n")
	})
}

// Launch starts the server and does not wait.
func (s *Server) Launch() {
	s.t.Helper()
	s.cmd = exec.Command(s.name, s.args...)
	s.cmd.SysProcAttr = DieWithParent()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// Kill ends the server at once, as a crash does.
func (s *Server) Kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// Pause stops the server without closing its connections; Resume lets it go on.
func (s *Server) Pause()  { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }
func (s *Server) Resume() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// Client returns a client of the server, which is closed with the test.
func (s *Server) Client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	s.t.Cleanup(func() { c.Close() })
	return c
}

// Eventually waits for ok, for so long that no machine is too slow.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 2*time.Minute {
			t.Fatalf("not within 2 minutes: %s", what)
		}
	}
}
