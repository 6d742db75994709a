package recent_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/internal/recent"
)

func TestKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var keys recent.Keys
		if keys.Has("a") {
			t.Error("got a key of none, want none")
		}
		keys.Add("a", time.Minute)
		time.Sleep(time.Minute)
		if !keys.Has("a") {
			t.Error("got no key within its time, want it")
		}
		time.Sleep(time.Nanosecond)
		if keys.Has("a") {
			t.Error("got a key after its time, want none")
		}
		for i := range 5000 {
			keys.Add(fmt.Sprint(i), time.Hour)
		}
		if !keys.Has("4999") || keys.Has("0") {
			t.Error("got the first of 5,000 keys or not the last, want the last alone: there is a bound")
		}
	})
}
