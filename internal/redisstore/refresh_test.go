package redisstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redisstore"
	"github.com/cacheaside/aside/internal/redistest"
)

const (
	valueKey = "item:1"
	leaseKey = "{item:1}:lease"
)

// oldValues are all that end, and do so within a year.
var oldValues = &backend.Refresh{Over: 365 * 24 * time.Hour, Within: 366 * 24 * time.Hour}

// refreshing is a store, with what it asks of one.
type refreshing struct {
	*testing.T
	*redisstore.Store
	r        *redis.Client // all rights
	replaced []string
}

func (s *refreshing) Context() context.Context { return s.T.Context() }

func newRefreshing(t *testing.T, server *redistest.Server) *refreshing {
	s := &refreshing{T: t, r: server.Client()}
	s.r.FlushAll(t.Context())
	s.Store = redisstore.New(server.Client(), redisstore.Options{Probe: "probe", Replaced: func(key, kind string) { s.replaced = append(s.replaced, key+" "+kind) }})
	return s
}

func (s *refreshing) refresh(want backend.LeaseState, r *backend.Refresh) backend.Lease {
	s.Helper()
	l, err := s.Lease(s.Context(), valueKey, backend.LeaseRequest{TTL: time.Minute, Refresh: r, WakeOn: "wakes"})
	if err != nil || l.State != want {
		s.Fatalf("got %+v, %v, want state %v", l, err, want)
	}
	return l
}

func (s *refreshing) fill(token string, want bool) {
	s.Helper()
	stored, err := s.Fill(s.Context(), valueKey, token, backend.Fill{Value: []byte("new"), TTL: time.Hour, FreshFor: time.Minute})
	if err != nil || stored != want {
		s.Fatalf("Fill: %v, %v, want %v", stored, err, want)
	}
}

func (s *refreshing) wantMark(want backend.Mark) {
	s.Helper()
	if value, mark, ok, err := s.GetMarked(s.Context(), valueKey); err != nil || !ok || mark != want {
		s.Errorf("GetMarked: %q, %v, %v, %v, want the mark %v", value, mark, ok, err, want)
	}
}

// lasts checks that the lease key lasts for no longer than it says.
func (s *refreshing) lasts(most time.Duration) {
	s.Helper()
	if left := s.r.PTTL(s.Context(), leaseKey).Val(); left <= 0 || left > most {
		s.Errorf("the lease key lasts for %v, want %v at most", left, most)
	}
}

func TestRefresh_Scripts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, c := range []struct {
		name string
		run  func(s *refreshing)
	}{
		{"a list where the value would be", func(s *refreshing) {
			s.r.RPush(s.Context(), valueKey, "theirs")
			s.refresh(backend.Gone, oldValues)
			if _, _, ok, err := s.GetMarked(s.Context(), valueKey); ok || err != nil {
				s.Errorf("GetMarked: %v, %v, want a miss", ok, err)
			}
			if s.r.Exists(s.Context(), valueKey).Val() != 1 {
				s.Error("it was removed, and nobody was told")
			}
		}},
		{"a list where the lease would be", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", time.Hour)
			s.r.RPush(s.Context(), leaseKey, "theirs")
			s.wantMark(backend.Unmarked)
			s.fill(s.refresh(backend.Granted, oldValues).Token, true)
			s.wantMark(backend.Fresh)
			if got := fmt.Sprint(s.replaced); got != "["+leaseKey+" list]" {
				s.Errorf("replaced are %v, want the list", got)
			}
		}},
		{"a list where the lease would be, of a young value", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", time.Hour)
			s.r.RPush(s.Context(), leaseKey, "theirs")
			s.refresh(backend.Marked, &backend.Refresh{Over: time.Minute, Within: time.Hour})
			s.wantMark(backend.Fresh)
		}},
		{"a list where the value was, and a fill", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", time.Hour)
			token := s.refresh(backend.Granted, oldValues).Token
			s.r.Del(s.Context(), valueKey)
			s.r.RPush(s.Context(), valueKey, "theirs")
			s.fill(token, false)
		}},
		{"a value without an end", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", 0)
			token := s.refresh(backend.Granted, &backend.Refresh{Within: 366 * 24 * time.Hour}).Token
			s.fill(token, true)
			if left := s.r.TTL(s.Context(), valueKey).Val(); left <= 0 || left > time.Hour {
				s.Errorf("the new value is kept for %v, want an hour", left)
			}
		}},
		{"a value without an end, stored again with another length", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", 0)
			token := s.refresh(backend.Granted, oldValues).Token
			s.r.Set(s.Context(), valueKey, "newer", 0)
			s.fill(token, false)
		}},
		{"a value without an end, removed", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", 0)
			token := s.refresh(backend.Granted, oldValues).Token
			s.r.Del(s.Context(), valueKey)
			s.fill(token, false)
			if n := s.r.Exists(s.Context(), valueKey, leaseKey).Val(); n != 0 {
				s.Errorf("%d keys are left, want none: the next reader loads", n)
			}
		}},
		{"a value without an end that is given one", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", 0)
			token := s.refresh(backend.Granted, oldValues).Token
			s.r.Expire(s.Context(), valueKey, time.Hour)
			s.fill(token, false)
		}},
		{"a mark from before the clock was set back", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", time.Hour)
			s.r.Set(s.Context(), leaseKey, "fresh 60000", time.Hour)
			s.refresh(backend.Marked, oldValues)
			s.lasts(time.Minute)
		}},
		{"a failed refresh from before the clock was set back", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", time.Hour)
			s.r.Set(s.Context(), leaseKey, "failed a.1.2 60000 3", time.Hour)
			if l := s.refresh(backend.Loading, oldValues); l.Token != "" {
				s.Errorf("got the token %q, want none", l.Token)
			}
			s.lasts(time.Minute)
		}},
		{"a lease from before the clock was set back", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", time.Hour)
			s.r.Set(s.Context(), leaseKey, "load a.1.2 60000 0 -", time.Hour)
			if l := s.refresh(backend.Loading, oldValues); l.Token != "a.1.2" {
				s.Errorf("got the token %q, want the holder's", l.Token)
			}
			s.lasts(time.Minute)
		}},
		{"what no version of this library has written", func(s *refreshing) {
			for _, text := range []string{"load", "load a.1.2", "fresh", "fresh x", "failed", "something else", ""} {
				s.r.Set(s.Context(), valueKey, "old", time.Hour)
				s.r.Set(s.Context(), leaseKey, text, 0)
				s.fill(s.refresh(backend.Granted, oldValues).Token, true)
				s.wantMark(backend.Fresh)
				s.r.Del(s.Context(), leaseKey)
			}
		}},
		{"a load that failed", func(s *refreshing) { // not a refresh: the value was stored by another program since
			s.r.Set(s.Context(), valueKey, "old", time.Hour)
			s.r.Set(s.Context(), leaseKey, "failed a.1.2 2000", 2*time.Second)
			s.refresh(backend.Granted, oldValues)
		}},
		{"a mark without its value", func(s *refreshing) {
			s.r.Set(s.Context(), leaseKey, "fresh 60000", time.Minute)
			if l, err := s.Lease(s.Context(), valueKey, backend.LeaseRequest{TTL: time.Minute}); err != nil || l.State != backend.Granted {
				s.Fatalf("got %+v, %v, want a lease", l, err)
			}
			if len(s.replaced) > 0 {
				s.Errorf("replaced are %v, want none: it is this library's own", s.replaced)
			}
		}},
		{"a release", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", time.Minute)
			if err := s.Release(s.Context(), valueKey, s.refresh(backend.Granted, oldValues).Token); err != nil {
				s.Fatal(err)
			}
			if left := s.r.PTTL(s.Context(), valueKey).Val(); left <= 0 || left > time.Minute {
				s.Errorf("the value is kept for %v, want a minute at most", left)
			}
		}},
		{"those who wait", func(s *refreshing) {
			for name, end := range map[string]func(token string){
				"Fill":         func(token string) { s.fill(token, true) },
				"refused Fill": func(token string) { s.r.Set(s.Context(), valueKey, "newer", time.Hour); s.fill(token, false) },
				"Release":      func(token string) { _ = s.Release(s.Context(), valueKey, token) },
				"Delete":       func(string) { _ = s.Delete(s.Context(), valueKey) },
			} {
				s.r.Del(s.Context(), leaseKey)
				s.r.Set(s.Context(), valueKey, "old", time.Hour)
				token := s.refresh(backend.Granted, oldValues).Token
				if held, err := s.Extend(s.Context(), token, time.Minute, valueKey); !held || err != nil {
					s.Fatal(held, err)
				}
				if l := s.refresh(backend.Loading, oldValues); l.Token != token || l.Deadline != "1 60000" {
					s.Errorf("got %+v, want the holder's", l)
				}
				heard := s.r.Subscribe(s.Context(), "wakes")
				if _, err := heard.Receive(s.Context()); err != nil {
					s.Fatal(err)
				}
				end(token)
				soon, cancel := context.WithTimeout(s.Context(), 20*time.Second)
				defer cancel()
				if m, err := heard.ReceiveMessage(soon); err != nil || m.Payload != valueKey {
					s.Errorf("after a %s: heard %v, %v, want the key", name, m, err)
				}
				heard.Close()
			}
		}},
		{"no memory", func(s *refreshing) {
			s.r.Set(s.Context(), valueKey, "old", time.Hour)
			token := s.refresh(backend.Granted, oldValues).Token
			s.r.ConfigSet(s.Context(), "maxmemory", "1")
			defer s.r.ConfigSet(s.Context(), "maxmemory", "0")
			if _, err := s.Fill(s.Context(), valueKey, token, backend.Fill{Value: []byte("new"), TTL: time.Hour, FreshFor: time.Minute}); err == nil || !strings.Contains(err.Error(), "OOM") {
				s.Errorf("Fill: %v, want OOM", err)
			}
			if err := s.Release(s.Context(), valueKey, token); err != nil {
				s.Errorf("Release: %v", err)
			}
			if l := s.refresh(backend.Loading, oldValues); l.Token != "" {
				s.Errorf("got the token %q, want none: the refresh has failed", l.Token)
			}
			if got := s.r.Get(s.Context(), valueKey).Val(); got != "old" {
				s.Errorf("the value is %q, want the old one", got)
			}
			s.r.Del(s.Context(), leaseKey)
			for _, r := range []*backend.Refresh{oldValues, {Over: time.Minute, Within: time.Hour}} {
				if l, err := s.Lease(s.Context(), valueKey, backend.LeaseRequest{TTL: time.Minute, Refresh: r}); err == nil {
					s.Errorf("got %+v, want an error", l)
				}
			}
			s.wantMark(backend.Unmarked)
		}},
		{"a user who may not read lease keys", func(s *refreshing) {
			server.SetUser("some", "on", ">pw", "+@all", "resetkeys", "~item:*", "&*")
			s.r.Set(s.Context(), valueKey, "old", time.Hour)
			client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "some", Password: "pw"})
			defer client.Close()
			s.Store = redisstore.New(client, redisstore.Options{})
			s.wantMark(backend.Fresh)
			found, err := s.GetMany(s.Context(), []redisstore.Ask{{Key: valueKey, Marked: true}, {Key: "item:none", Marked: true}, {Key: valueKey}})
			if err != nil || !found[0].OK || found[0].Mark != backend.Fresh || found[1].OK || found[1].Err != nil || !found[2].OK {
				s.Errorf("GetMany: %+v, %v", found, err)
			}
		}},
		{"a user who may not ask for lengths", func(s *refreshing) {
			server.SetUser("short", "on", ">pw", "+@all", "-strlen", "~*", "&*")
			client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "short", Password: "pw"})
			defer client.Close()
			s.Store = redisstore.New(client, redisstore.Options{})
			s.r.Set(s.Context(), valueKey, "old", 0)
			token := s.refresh(backend.Granted, oldValues).Token
			s.r.Set(s.Context(), valueKey, "newer", 0)
			s.fill(token, false)
			s.fill(s.refresh(backend.Granted, oldValues).Token, true)
			s.r.Del(s.Context(), valueKey)
			s.r.RPush(s.Context(), valueKey, "theirs")
			s.refresh(backend.Gone, oldValues)
		}},
		{"many at once", func(s *refreshing) {
			s.r.MSet(s.Context(), "item:1", "1", "item:2", "2", "item:3", "3", "{item:1}:lease", "fresh 1", "{item:2}:lease", "load a.1.2 1 0 -")
			s.r.RPush(s.Context(), "item:4", "a list")
			s.r.RPush(s.Context(), "{item:3}:lease", "a list")
			found, err := s.GetMany(s.Context(), []redisstore.Ask{{Key: "item:0", Marked: true}, {Key: "item:1", Marked: true}, {Key: "item:2"}, {Key: "item:2", Marked: true}, {Key: "item:3", Marked: true}, {Key: "item:4", Marked: true}})
			var got []string
			for _, f := range found {
				got = append(got, fmt.Sprintf("%s %v", f.Value, f.Mark))
			}
			if want := "[ Unmarked|1 Fresh|2 Unmarked|2 Leased|3 Unmarked| Unmarked]"; "["+strings.Join(got, "|")+"]" != want || err != nil {
				s.Errorf("got %v, %v, want %v", strings.Join(got, "|"), err, want)
			}
		}},
		{"nothing is left", func(s *refreshing) {
			for name, end := range map[string]func() error{
				"Delete":  func() error { return s.Delete(s.Context(), valueKey) },
				"Unblock": func() error { return s.Unblock(s.Context(), "w", valueKey) },
				"Clear":   func() error { return s.Clear(s.Context(), "item:") },
			} {
				s.r.Set(s.Context(), valueKey, "old", time.Hour)
				s.fill(s.refresh(backend.Granted, oldValues).Token, true)
				if err := end(); err != nil || s.r.Exists(s.Context(), valueKey, leaseKey).Val() != 0 {
					s.Errorf("%s: %v, and the value or its mark is left", name, err)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(newRefreshing(t, server)) })
	}
}
