package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/logtest"
)

// These tests measure the heap to find memory that only grows, so they are not parallel.

func TestMemory_MarksOfFailedLoadsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory"})
		defer c.Close()
		before := heap()
		for i := range 50_000 {
			_, err := aside.GetOrLoad(t.Context(), c, aside.ChatMessages(fmt.Sprint("an id that fails ", i)), func(context.Context) (string, error) {
				return "", errDown
			})
			if !errors.Is(err, errDown) {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second) // nobody calls meanwhile
		if left := heap() - before; left > 3<<20 {
			t.Errorf("50,000 loads that failed leave %.1f MiB", float64(left)/(1<<20))
		}
		must(c.Status(t.Context()))
	})
}

func TestWarnings_AreBounded(t *testing.T) {
	var log logtest.Buffer
	c := open(t, aside.Config{Type: "memory", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	load := func(context.Context) (chan int, error) { return make(chan int), nil }
	for range 2 {
		for i := range 1000 {
			space := aside.Keyspace{Name: fmt.Sprint("space", i)}
			must(aside.GetOrLoad(t.Context(), c, space.Key("A"), load))
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 257 {
		t.Errorf("%d lines for 1000 keyspaces", n)
	}
	if n := strings.Count(log.String(), "more keyspaces"); n != 1 {
		t.Errorf("%d lines say that there are more", n)
	}
}
