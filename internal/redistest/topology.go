package redistest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// StartCluster starts a Redis Cluster of three masters with a replica each, and waits until all
// nodes know each other. The result has the masters first. A master that does not answer for
// 15 seconds is replaced by its replica: a test that pauses one for less keeps the roles.
func StartCluster(t testing.TB) []*Server {
	t.Helper()
	Require(t, "redis-cli")
	var servers []*Server
	create := []string{"--cluster", "create"}
	for range 6 {
		s := Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "15000", "--repl-diskless-sync-delay", "0")
		servers = append(servers, s)
		create = append(create, s.Addr)
	}
	if out, err := exec.Command("redis-cli", append(create, "--cluster-replicas", "1", "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("redis-cli --cluster create: %v\n%s", err, out)
	}
	for _, s := range servers {
		Eventually(t, "the Cluster is complete", func() bool {
			info := s.Client().ClusterInfo(context.Background()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:6")
		})
	}
	for _, s := range servers[:3] {
		waitForReplicas(t, s, 1)
	}
	return servers
}

// StartSentinel starts a master with replicas, and a Sentinel that knows the master as "main"
// and replaces it when it has not answered for half a second.
func StartSentinel(t testing.TB, replicas int) (sentinel, master *Server) {
	t.Helper()
	master = Start(t, "--repl-diskless-sync-delay", "0")
	host, port, _ := net.SplitHostPort(master.Addr)
	for range replicas {
		Start(t, "--replicaof", host, port, "--repl-diskless-sync-delay", "0")
	}
	waitForReplicas(t, master, replicas)
	sentinel = New(t)
	_, own, _ := net.SplitHostPort(sentinel.Addr)
	file := filepath.Join(sentinel.Dir, "sentinel.conf")
	conf := strings.Join([]string{
		"port " + own, "bind 127.0.0.1", "dir " + sentinel.Dir,
		"sentinel monitor main " + host + " " + port + " 1",
		"sentinel down-after-milliseconds main 500", "sentinel failover-timeout main 3000",
	}, "\n")
	if err := os.WriteFile(file, []byte(conf+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel.args = []string{file, "--sentinel"}
	sentinel.Start()
	Eventually(t, "the Sentinel knows the replicas", func() bool {
		info := sentinel.Client().Info(context.Background(), "sentinel").Val()
		return strings.Contains(info, "slaves="+strconv.Itoa(replicas))
	})
	// A Sentinel that was not scheduled for two seconds, as happens on a busy machine, would
	// do nothing for thirty (TILT mode) and then take the replicas for too old. Redis before
	// 7 does not have the command, and such a machine may fail the test there.
	sentinel.Client().Do(context.Background(), "SENTINEL", "DEBUG", "tilt-trigger", 3600_000)
	return sentinel, master
}

// waitForReplicas waits until n replicas of master are online.
func waitForReplicas(t testing.TB, master *Server, n int) {
	t.Helper()
	Eventually(t, "the replicas are connected", func() bool {
		info := master.Client().Info(context.Background(), "replication").Val()
		return strings.Count(info, "state=online") == n
	})
}

// ClusterClient returns a client of the Cluster, which is closed when the test ends.
func ClusterClient(t testing.TB, servers []*Server) *redis.ClusterClient {
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{servers[0].Addr, servers[1].Addr, servers[2].Addr}})
	t.Cleanup(func() { c.Close() })
	return c
}
