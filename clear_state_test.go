package aside_test

import (
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redistest"
)

// A Clear drops what is cached. That a reply is being generated, and that somebody
// wants it to stop, is a state.
func TestClear_LeavesTheStateOfGenerations(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T, cfg aside.Config) aside.Cache{
		"memory": func(t *testing.T, cfg aside.Config) aside.Cache {
			cfg.Type = "memory"
			return open(t, cfg)
		},
		"miniredis": func(t *testing.T, cfg aside.Config) aside.Cache {
			return overRedis(t, miniredis.RunT(t).Addr(), cfg)
		},
		"redis": func(t *testing.T, cfg aside.Config) aside.Cache {
			return overRedis(t, redistest.Start(t).Addr, cfg)
		},
	} {
		for _, prefix := range []string{"", "app[1]:"} {
			t.Run(name+" "+prefix, func(t *testing.T) {
				t.Parallel()
				c := open(t, aside.Config{KeyPrefix: prefix, TTLs: map[string]time.Duration{"generation": time.Minute, "cancel": time.Minute}})
				ctx := t.Context()
				here, there := generations(t, c), generations(t, c) // of their own, as two processes' are
				g := start(t, here, "A")
				for _, key := range []string{"generation:python", "cancel:python", "chat_messages:A", "user_chats:u"} {
					if err := c.Set(ctx, key, []byte("1"), time.Minute); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.Clear(ctx); err != nil {
					t.Fatal(err)
				}
				wantKeys := func(want bool, keys ...string) {
					t.Helper()
					for _, key := range keys {
						if _, ok, err := c.Get(ctx, key); err != nil || ok != want {
							t.Errorf("%s: %v, %v; want %v", key, ok, err, want)
						}
					}
				}
				wantKeys(true, "generation:A", "generation:python", "cancel:python")
				wantKeys(false, "chat_messages:A", "user_chats:u")
				if _, err := there.Start(ctx, "A"); !errors.Is(err, aside.ErrGenerating) {
					t.Errorf("Start after the Clear: %v", err)
				}
				// Prefixes that are named are the caller's decision. A live claim stays all the same.
				if err := c.Clear(ctx, "generation:", "cancel:"); err != nil {
					t.Fatal(err)
				}
				wantKeys(true, "generation:A")
				wantKeys(false, "generation:python", "cancel:python")
				if err := there.Cancel(ctx, "A"); err != nil {
					t.Fatal(err)
				}
				if err := c.Clear(ctx); err != nil {
					t.Fatal(err)
				}
				if t.Failed() {
					return // the signal has gone with the others
				}
				wantCause(t, g, aside.ErrCancelled, time.Minute)
				g.Finish()
				wantKeys(false, "generation:A", "cancel:A")
			})
		}
	}
}

// A key that is claimed while a Clear scans keeps its value with its claim.
func TestClear_LeavesWhatIsClaimedMeanwhile(t *testing.T) {
	t.Parallel()
	for _, s := range []struct{ name, addr string }{{"miniredis", miniredis.RunT(t).Addr()}, {"redis", ""}} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if s.addr == "" {
				s.addr = redistest.Start(t).Addr
			}
			claimer := overRedis(t, s.addr, aside.Config{})
			if err := claimer.Set(t.Context(), "s:1", []byte("old"), time.Minute); err != nil {
				t.Fatal(err)
			}
			client := redis.NewClient(&redis.Options{Addr: s.addr})
			t.Cleanup(func() { client.Close() })
			client.AddHook(afterEach{func() {
				_ = claimer.Delete(t.Context(), "s:1")
				_ = must(backendOf(claimer).Lease(t.Context(), "s:1", backend.LeaseRequest{TTL: time.Minute, Claim: []byte("1"), Owner: "mine"}))
			}})
			c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second}))
			t.Cleanup(func() { c.Close() })
			if err := c.Clear(t.Context(), "s:"); err != nil {
				t.Fatal(err)
			}
			if value, ok, err := claimer.Get(t.Context(), "s:1"); !ok || string(value) != "1" {
				t.Errorf("after Clear: %q, %v, %v", value, ok, err)
			}
			if held := must(backendOf(claimer).Extend(t.Context(), "mine", time.Minute, "s:1")); !held {
				t.Error("the claim has ended")
			}
		})
	}
}

// A Redis that runs no scripts for this user is cleared all the same.
func TestClear_WithoutScripts(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	admin := r.Client()
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "plain", "on", ">secret", "~*", "+@all", "-@scripting").Err(); err != nil {
		t.Fatal(err)
	}
	c := overRedis(t, r.Addr, aside.Config{Redis: aside.Redis{Username: "plain", Password: "secret"}})
	admin.Do(t.Context(), "SETEX", "chat_messages:A", 60, "1")
	admin.Do(t.Context(), "SETEX", "theirs:A", 60, "1")
	const mark = "{chat_messages:A}:lease" // of a process that may run scripts
	admin.Do(t.Context(), "SETEX", mark, 60, "fresh 60000")
	if err := c.Clear(t.Context()); err != nil {
		t.Error(err)
	}
	if n := admin.Exists(t.Context(), "chat_messages:A", mark).Val(); n != 0 {
		t.Error("chat_messages:A or its mark is still there")
	}
	if n := admin.Exists(t.Context(), "theirs:A").Val(); n != 1 {
		t.Error("theirs:A is gone")
	}
}
