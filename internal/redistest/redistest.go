// Package redistest starts real Redis servers for tests: one ([Start]), a Cluster
// ([StartCluster]), or a master with replicas and a Sentinel ([StartSentinel]). Each uses free
// ports and temporary folders, saves nothing and ends with its test, so tests with them run
// in parallel and need no set-up.
//
// The programs are those on the PATH, which may be another engine's under Redis's names. A
// test is skipped if they are not installed ([Require]). The tests of all modules use this
// package; most others run with miniredis, and only the behaviour that depends on a real
// server is worth the time that one takes to start.
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

// Server is a server process. It belongs to one test and is killed when that ends. Its methods
// fail the test where they cannot do their work, so they return no errors.
type Server struct {
	Addr string // 127.0.0.1 and a port
	Dir  string // its working directory, with its log and any file that it saves

	t    testing.TB
	name string    // of the program
	args []string  // of the program
	cmd  *exec.Cmd // nil while it does not run
}

// missing has a program that is missing logged once, not by each test.
var missing sync.Once

// Require skips the test if program is not on the PATH. If ASIDE_TEST_REQUIRE_REDIS is set it
// fails the test instead, so that CI does not pass because nothing ran. If ASIDE_TEST_NO_REDIS
// is set, it skips the test in any case.
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

// Start starts redis-server and waits until it answers. args follow the arguments of New, and
// win over them.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := New(t, args...)
	s.Start()
	return s
}

// New returns a server that is not started: no file is saved unless args say so.
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

// Args adds arguments, for the next Start. They win over those before them.
func (s *Server) Args(args ...string) { s.args = append(s.args, args...) }

// FreePort returns a port of 127.0.0.1 that is free, and so is the port 10000 above it, on which
// a node of a Cluster talks to the others. It looks for one from 12000 to 21999, below those
// that Linux gives to outgoing connections: asking the system for a port (":0") would yield
// one of these, which a client may take before the server listens on it.
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

// FreePort goes through the ports one after another, so that no two servers of a process get
// the same, also while one of them is killed. It begins at random, as other test processes
// run at the same time.
var (
	firstPort = rand.IntN(10000)
	ports     atomic.Int32
)

// isFree reports whether a server could listen on a port now.
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
		// The process id tells it from another server that took the port.
		return strings.Contains(c.Info(context.Background(), "server").Val(), "process_id:"+strconv.Itoa(s.cmd.Process.Pid)+"\r\n")
	})
}

// Launch starts the server and does not wait until it answers.
func (s *Server) Launch() {
	s.t.Helper()
	s.cmd = exec.Command(s.name, s.args...)
	s.cmd.SysProcAttr = DieWithParent()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// Kill ends the server at once, as a crash does, and waits for its end. Start starts it again.
func (s *Server) Kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// Pause stops the server without closing its connections: the system still accepts new ones
// and commands, and no reply comes.
func (s *Server) Pause() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets a paused server go on, with the commands that arrived meanwhile.
func (s *Server) Resume() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// Client returns a new client of the server, which is closed when the test ends.
func (s *Server) Client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	s.t.Cleanup(func() { c.Close() })
	return c
}

// Eventually waits until ok returns true, and fails the test after two minutes. That is longer
// than any machine needs, so a failure is never one of timing.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 2*time.Minute {
			t.Fatalf("not within 2 minutes: %s", what)
		}
	}
}
