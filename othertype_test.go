package aside_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

// A key of another type is another program's: it is replaced, and that is said once a
// keyspace, with the key's name and its type, whichever command removes it first.
func TestAKeyOfAnotherTypeIsNotRemovedInSilence(t *testing.T) {
	t.Parallel()
	commands := map[string]func(t *testing.T, c aside.Cache, key aside.Key){
		"a read": func(t *testing.T, c aside.Cache, key aside.Key) { ask(t, c, key) },
		"a claim": func(t *testing.T, c aside.Cache, key aside.Key) {
			must(backendOf(c).Lease(t.Context(), key.String(), backend.LeaseRequest{TTL: time.Second, Claim: []byte("1"), Owner: "me"}))
		},
		"Set": func(t *testing.T, c aside.Cache, key aside.Key) {
			if err := c.Set(t.Context(), key.String(), []byte("1"), time.Minute); err != nil {
				t.Error(err)
			}
		},
		"Invalidate": func(t *testing.T, c aside.Cache, key aside.Key) {
			if err := aside.Invalidate(t.Context(), c, key); err != nil {
				t.Error(err)
			}
		},
		"Update": func(t *testing.T, c aside.Cache, key aside.Key) {
			if err := aside.Update(t.Context(), c, func(context.Context) error { return nil }, key); err != nil {
				t.Error(err)
			}
		},
	}
	run := func(t *testing.T, client *redis.Client, addr string) {
		for name, command := range commands {
			for _, prefix := range []string{"", "app:"} {
				for _, at := range []string{"item:1", "{item:1}:lease"} {
					var log logtest.Buffer
					c := overRedis(t, addr, aside.Config{KeyPrefix: prefix, Logger: slog.New(slog.NewTextHandler(&log, nil))})
					at = strings.Replace(at, "item:", prefix+"item:", 1)
					for _, id := range []string{"1", "2"} {
						client.RPush(t.Context(), strings.Replace(at, "1", id, 1), "theirs")
						command(t, c, items.Key(id))
					}
					lines := strings.TrimSpace(log.String())
					if strings.Count(lines, "\n") != 0 || !strings.Contains(lines, "key="+at) || !strings.Contains(lines, "a list") {
						t.Errorf("%s removes a list at %s: logged %q", name, at, lines)
					}
					client.FlushDB(t.Context())
				}
			}
		}
	}
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		server := miniredis.RunT(t)
		client := redis.NewClient(&redis.Options{Addr: server.Addr()})
		defer client.Close()
		run(t, client, server.Addr())
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		r := redistest.Start(t)
		run(t, r.Client(), r.Addr)
	})
}

// A user who may not ask for a key's type invalidates all the same.
func TestAUserWhoMayNotAskForTypes(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	admin := r.Client()
	r.SetUser("some", "on", ">pw", "+@all", "-type", "~*", "&*")
	c := open(t, aside.Config{Redis: aside.Redis{Hosts: []string{r.Addr}, Username: "some", Password: "pw"}})
	ask(t, c, items.Key("1"))
	for range 2 {
		if err := aside.Invalidate(t.Context(), c, items.Key("1")); err != nil || aside.Pending(c, items.Key("1")) {
			t.Errorf("%v", err)
		}
		if n := admin.Exists(t.Context(), "item:1").Val(); n != 0 {
			t.Error("it was not removed")
		}
		admin.RPush(t.Context(), "item:1", "theirs")
	}
	ask(t, c, items.Key("1"))
}
