package redisstore

import (
	"io"
	"log/slog"
	"testing"

	"github.com/redis/go-redis/v9/push"
)

// kept are the keys that a near cache has.
type kept map[string]bool

func (k kept) Drop(keys ...string) {
	for _, key := range keys {
		delete(k, key)
	}
}
func (k kept) ForgetAll()    { clear(k) }
func (k kept) Coherent(bool) { clear(k) }

func TestTrack_WhatRedisSays(t *testing.T) {
	t.Parallel()
	n := kept{}
	node := &trackedNode{}
	tr := &tracking{changes: n, nodes: map[string]*trackedNode{"node": node}, log: slog.New(slog.DiscardHandler), turned: func(bool, error) {}}
	tr.hears(node, true, nil)
	says := func(what any) {
		if err := tr.HandlePushNotification(t.Context(), push.NotificationHandlerContext{}, []any{"invalidate", what}); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		what string
		do   func()
		left string
	}{
		{"two of three keys have changed", func() { says([]any{"a", "c"}) }, "b"},
		{"all have changed", func() { says(nil) }, ""},
		{"the connection has broken", func() { tr.hears(node, false, io.EOF) }, ""},
		{"it is there again", func() { tr.hears(node, true, nil) }, ""},
	} {
		for _, key := range []string{"a", "b", "c"} {
			n[key] = true
		}
		c.do()
		left := ""
		for _, key := range []string{"a", "b", "c"} {
			if n[key] {
				left += key
			}
		}
		if left != c.left {
			t.Errorf("when %s, %q are left, want %q", c.what, left, c.left)
		}
	}
}
