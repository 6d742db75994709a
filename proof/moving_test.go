package proof

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

// While a slot moves, a node refuses a script that needs a value and its lease, or redirects it
// to the other node. Callers that ask at the same time each get their own value, and the cache
// does not take the node for one that does not store.
func TestCluster_ManyAskAtOnceInASlotThatMoves(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	args := []string{"--cluster-enabled", "yes", "--cluster-node-timeout", "60000"}
	a, b := redistest.Start(t, args...), redistest.Start(t, args...)
	from, to := a.Client(), b.Client()
	must(t, from.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", 0, 8191).Err())
	must(t, to.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", 8192, 16383).Err())
	host, port, _ := net.SplitHostPort(b.Addr)
	must(t, from.ClusterMeet(ctx, host, port).Err())
	for _, node := range []*redistest.Server{a, b} {
		redistest.Eventually(t, "the Cluster is complete", func() bool {
			info := node.Client().ClusterInfo(ctx).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_slots_assigned:16384")
		})
	}
	log := new(logtest.Buffer)
	c, err := aside.Open(aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{Hosts: []string{a.Addr, b.Addr}}, Logger: slog.New(slog.NewTextHandler(log, nil))})
	must(t, err)
	defer c.Close()

	tag := 0
	for from.ClusterKeySlot(ctx, fmt.Sprint(tag)).Val() >= 8192 {
		tag++
	}
	slot := from.ClusterKeySlot(ctx, fmt.Sprint(tag)).Val()
	space := aside.Keyspace{Name: "item", NotFoundTTL: time.Minute}
	var keys []aside.Key
	for i := range 400 {
		gone := space.Key(fmt.Sprintf("gone%d{%d}", i, tag)) // has its lease key, and no value: it is in both places
		if _, err := aside.GetOrLoad(ctx, c, gone, func(context.Context) (string, error) { return "", aside.ErrNotFound }); !errors.Is(err, aside.ErrNotFound) {
			t.Fatal(err)
		}
		keys = append(keys, gone, space.Key(fmt.Sprintf("fresh%d{%d}", i, tag)))
	}
	must(t, to.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", from.ClusterMyID(ctx).Val()).Err())
	must(t, from.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", to.ClusterMyID(ctx).Val()).Err())
	var wg sync.WaitGroup
	for _, key := range keys {
		wg.Go(func() {
			v, err := aside.GetOrLoad(ctx, c, key, func(context.Context) (string, error) { return key.String(), nil })
			if err != nil && !errors.Is(err, aside.ErrNotFound) || err == nil && v != key.String() {
				t.Errorf("%s: got %q, %v", key, v, err)
			}
		})
	}
	wg.Wait()
	if text := log.String(); text != "" {
		t.Error(text)
	}
}
