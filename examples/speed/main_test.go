package main

import (
	"testing"

	"github.com/cacheaside/aside/examples/internal/pgtest"
)

func TestSpeed(t *testing.T) {
	t.Parallel()
	small := options{rooms: 3, messages: 30, reads: 2, rounds: 1}
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		if err := speed(small); err != nil {
			t.Error(err)
		}
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		o := small
		o.postgres = pgtest.Start(t)
		if err := speed(o); err != nil {
			t.Error(err)
		}
	})
	if err := speed(options{rooms: 3, messages: 2, reads: 1, rounds: 1}); err == nil {
		t.Error("fewer messages than rooms are accepted")
	}
}
