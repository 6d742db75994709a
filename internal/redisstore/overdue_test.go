package redisstore

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/backend"
)

// A lease that was renewed since its waiter took it for overdue goes on.
func TestP3_ARenewedLeaseIsNotOverdue(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	b := New(client, Options{Probe: "probe"})
	start := time.Now()
	server.SetTime(start)
	ask := func(waited backend.Lease) backend.Lease {
		t.Helper()
		l, err := b.Lease(t.Context(), "item:1", backend.LeaseRequest{TTL: time.Minute, WaitedFor: waited.Token, Overdue: waited.Deadline})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	held := ask(backend.Lease{})
	seen := ask(backend.Lease{})
	server.SetTime(start.Add(time.Second))
	if ok, err := b.Extend(t.Context(), held.Token, time.Minute, "item:1"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if l := ask(seen); l.State != backend.Loading || l.Token != held.Token {
		t.Errorf("asked with the deadline of before the renewal, it is %v", l.State)
	} else if l = ask(l); l.State != backend.Granted {
		t.Errorf("asked with its deadline, it is %v, want granted", l.State)
	}
}
