package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/internal/redistest"
)

// server is a redis-server for this run, on a free port and with a temporary folder. It saves
// nothing. Package redistest has such servers for tests; this program has no test to fail.
type server struct {
	addr string
	dir  string
	cmd  *exec.Cmd
}

// startServer starts a server and waits until it answers.
func startServer(ctx context.Context) (*server, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("redis-server is not on the PATH; install Redis (Debian: apt-get install redis-server), or choose scenarios without it: -only '^memory'")
	}
	addr, err := freePort()
	if err != nil {
		return nil, fmt.Errorf("a free port for redis-server: %w", err)
	}
	dir, err := os.MkdirTemp("", "aside-bench-")
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	s := &server{addr: addr, dir: dir}
	s.cmd = exec.Command(program, "--port", port, "--bind", "127.0.0.1", "--dir", dir,
		"--save", "", "--appendonly", "no", "--logfile", filepath.Join(dir, "redis.log"))
	s.cmd.SysProcAttr = redistest.DieWithParent()
	if err := s.cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("start redis-server: %w", err)
	}
	if err := s.wait(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// wait waits until the server answers.
func (s *server) wait(ctx context.Context) error {
	c := redis.NewClient(&redis.Options{Addr: s.addr})
	defer c.Close()
	for began := time.Now(); ; {
		err := c.Ping(ctx).Err()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > 20*time.Second {
			log, _ := os.ReadFile(filepath.Join(s.dir, "redis.log"))
			return fmt.Errorf("redis-server on %s does not answer: %w\n%s", s.addr, err, log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kill ends the server as a crash does.
func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// hang stops the server and leaves its connections open, so that commands get no reply.
func (s *server) hang() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// stop ends the server and removes its folder.
func (s *server) stop() {
	s.kill()
	_ = os.RemoveAll(s.dir)
}

// flush removes all keys.
func (s *server) flush(ctx context.Context) error {
	c := redis.NewClient(&redis.Options{Addr: s.addr, ReadTimeout: time.Minute})
	defer c.Close()
	return c.FlushAll(ctx).Err()
}

func (s *server) version(ctx context.Context) string {
	c := redis.NewClient(&redis.Options{Addr: s.addr})
	defer c.Close()
	info, _ := c.Info(ctx, "server").Result()
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "redis_version:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// cpu returns the processor time that the server has used, to the nanosecond, or 0 if s is nil
// or the system does not tell. It reads schedstat, as the times in /proc/PID/stat are in
// hundredths of a second, and a measurement may use less.
func (s *server) cpu() time.Duration {
	if s == nil {
		return 0
	}
	var sum int64
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.cmd.Process.Pid))
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if fields := strings.Fields(string(text)); err == nil && len(fields) > 0 {
			ns, _ := strconv.ParseInt(fields[0], 10, 64)
			sum += ns
		}
	}
	return time.Duration(sum)
}
