package aside_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside"
)

// An overflow removes what the cache owns, whatever the keys of others look like.
func TestP6_AnOverflowClearsNothingForeign(t *testing.T) {
	t.Parallel()
	chats, lists := aside.Keyspace{Name: "chat"}, aside.Keyspace{Name: "list"}
	keys := func(c aside.Cache, keys ...aside.Key) error {
		return aside.Invalidate(context.Background(), c, keys...)
	}
	texts := func(c aside.Cache, keys ...string) error { return c.Delete(context.Background(), keys...) }
	for name, row := range map[string]struct {
		cfg        aside.Config
		old        []string // as they stand in the backend
		invalidate func(c aside.Cache) error
		foreign    []string
	}{
		"a prefix of several parts": {
			aside.Config{KeyPrefix: "prod:chat:"},
			[]string{"prod:chat:chat:1", "prod:chat:chat:2", "prod:chat:chat:3"},
			func(c aside.Cache) error { return keys(c, chats.Key("1"), chats.Key("2"), chats.Key("3")) },
			[]string{"prod:billing:invoice:1", "prod:session:42", "prod:chat", "chat:1"},
		},
		"a prefix without a colon": {
			aside.Config{KeyPrefix: "{prod}"},
			[]string{"{prod}chat:1", "{prod}chat:2", "{prod}chat:3"},
			func(c aside.Cache) error { return keys(c, chats.Key("1"), chats.Key("2"), chats.Key("3")) },
			[]string{"{prod}", "prod:1", "chat:1"},
		},
		"keyspaces that the Config does not name": {
			aside.Config{},
			[]string{"chat:1", "list:1:a", "list:1:b"},
			func(c aside.Cache) error { return keys(c, chats.Key("1"), lists.Key("1:a"), lists.Key("1:b")) },
			[]string{"listing:1", "list", "chats:1"},
		},
		"texts under a prefix": {
			aside.Config{KeyPrefix: "prod:chat:"},
			[]string{"prod:chat:a", "prod:chat:b:1", "prod:chat:c:2"},
			func(c aside.Cache) error { return texts(c, "a", "b:1", "c:2") },
			[]string{"prod:billing:invoice:1", "prod:chat"},
		},
		"texts of a keyspace": {
			aside.Config{Keyspaces: []aside.Keyspace{chats}},
			[]string{"chat:1", "chat:2", "chat:3"},
			func(c aside.Cache) error { return texts(c, "chat:1", "chat:2", "chat:3") },
			[]string{"chats:1", "prod:1"},
		},
		"texts of no keyspace": {
			aside.Config{},
			[]string{"prod:chat:1", "prod:chat:2"},
			func(c aside.Cache) error { return texts(c, "prod:chat:1", "prod:chat:2") },
			[]string{"prod:billing:invoice:1", "prod:chat:3", "prod"},
		},
		"texts without a colon": {
			aside.Config{},
			[]string{"a", "b"},
			func(c aside.Cache) error { return texts(c, "a", "b") },
			[]string{"bill:1", "b:1", "aa"},
		},
		"texts of no keyspace that a write names": {
			aside.Config{},
			[]string{"prod:1", "prod:2"},
			func(c aside.Cache) error { return backendOf(c).Unblock(context.Background(), "w", "prod:1", "prod:2") },
			[]string{"prod:3"},
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			row.cfg.QueueSize = 1
			c, backend := faulty(t, row.cfg)
			defer c.Close()
			for _, key := range slices.Concat(row.old, row.foreign) {
				if err := backend.Backend.Set(t.Context(), key, []byte("old"), time.Hour); err != nil {
					t.Fatal(err)
				}
			}
			backend.SetFault(refuse)
			if err := row.invalidate(c); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			backend.SetFault(nil)
			time.Sleep(5 * time.Second)
			for _, key := range row.old {
				if _, ok, _ := backend.Backend.Get(t.Context(), key); ok {
					t.Errorf("%s: the old value of %s is left", name, key)
				}
			}
			for _, key := range row.foreign {
				if _, ok, _ := backend.Backend.Get(t.Context(), key); !ok {
					t.Errorf("%s: %s was cleared, and is not the cache's", name, key)
				}
			}
			if s, _ := c.Status(t.Context()); s.Queued != 0 || s.Overflowed {
				t.Errorf("%s: status %+v", name, s)
			}
		})
	}
}

// A key of no keyspace cannot be made good by a Clear, so the queue keeps it beyond
// its size, as many again, and refuses the next.
func TestP6_TheQueueIsBoundedForKeysOfNoKeyspace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, backend := faulty(t, aside.Config{QueueSize: 10})
		defer c.Close()
		backend.SetFault(refuse)
		for i := range 30 {
			err := c.Delete(t.Context(), fmt.Sprint(i))
			if kept := i < 20; kept != (err == nil) || err != nil && !errors.Is(err, aside.ErrUnavailable) {
				t.Errorf("key %d: %v", i, err)
			}
		}
		if err := c.Delete(t.Context(), "19", "5"); err != nil {
			t.Errorf("those that are in the queue: %v", err)
		}
		if s, _ := c.Status(t.Context()); s.Queued != 20 || s.Overflowed || s.Stats.InvalidationQueued != 22 {
			t.Errorf("status %+v", s)
		}
		backend.SetFault(nil)
		time.Sleep(5 * time.Second)
		if s, _ := c.Status(t.Context()); s.Queued != 0 {
			t.Errorf("at the end %d are queued", s.Queued)
		}
	})
}

// The keys of a write that runs are distrusted, however many they are; once it is
// over their invalidations have no more room than others.
func TestP6_TheQueueIsBoundedForUpdates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, backend := faulty(t, aside.Config{QueueSize: 10})
		defer c.Close()
		users := aside.Keyspace{Name: "user"}
		var keys []aside.Key
		for i := range 30 {
			keys = append(keys, users.Key(fmt.Sprint(i)))
			must(aside.GetOrLoad(t.Context(), c, keys[i], func(context.Context) (string, error) { return "old", nil }))
		}
		backend.SetFault(refuse)
		if err := aside.Update(t.Context(), c, func(context.Context) error { return nil }, keys...); err != nil {
			t.Error(err)
		}
		if s, _ := c.Status(t.Context()); s.Queued != 10 || !s.Overflowed {
			t.Errorf("queued %d, overflowed %v", s.Queued, s.Overflowed)
		}
		backend.SetFault(nil)
		time.Sleep(5 * time.Second)
		for _, key := range keys {
			if got := must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return "new", nil })); got != "new" {
				t.Errorf("%s is %q", key, got)
			}
		}
		if s, _ := c.Status(t.Context()); s.Queued != 0 || s.Overflowed {
			t.Errorf("status %+v", s)
		}
	})
}
