package proof

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

// A client of one node at a Cluster's endpoint caches nothing and says why, in place of
// working for a part of the keys.
func TestCluster_AClientOfOneNode(t *testing.T) {
	t.Parallel()
	servers := redistest.StartCluster(t)
	client := redis.NewClient(&redis.Options{Addr: servers[0].Addr})
	defer client.Close()
	for says, make := range map[string]func(aside.Config) (aside.Cache, error){
		"REDIS_CLUSTER": func(cfg aside.Config) (aside.Cache, error) {
			cfg.Redis.Hosts = []string{servers[0].Addr}
			return aside.Open(cfg)
		},
		"NewClusterClient": func(cfg aside.Config) (aside.Cache, error) { return aside.NewRedis(client, cfg) },
	} {
		t.Run(says, func(t *testing.T) {
			log := new(logtest.Buffer)
			c, err := make(aside.Config{Timeout: 20 * time.Second, Logger: slog.New(slog.NewTextHandler(log, nil))})
			must(t, err)
			defer c.Close()
			for i := range 12 {
				v, err := aside.GetOrLoad(t.Context(), c, aside.ChatMessages(fmt.Sprint(i)), func(context.Context) (int, error) { return i, nil })
				if v != i || err != nil {
					t.Errorf("read %d, %v", v, err)
				}
			}
			if s, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), says) || s.Breaker != "open" {
				t.Errorf("breaker %s, Status: %v", s.Breaker, err)
			}
			if err := c.Clear(t.Context()); err == nil {
				t.Error("Clear says that it went well")
			}
			time.Sleep(time.Second) // the breaker's probes do not close it
			if text := log.String(); strings.Count(text, says) != 1 || strings.Contains(text, "answers again") {
				t.Errorf("the log does not say %q once:\n%s", says, text)
			}
		})
	}
}
