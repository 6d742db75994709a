package batch_test

import (
	"testing"
	"time"

	"github.com/cacheaside/aside/internal/batch"
)

func TestLanes_Limit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rtt  time.Duration
		most int
		want int
	}{
		{0, 0, batch.MaxLanes}, {time.Microsecond, 0, batch.MinLanes}, {50 * time.Microsecond, 0, 5}, {time.Second, 0, batch.MaxLanes},
		{0, 3, 3}, {time.Microsecond, 1, 1},
	} {
		l := batch.Lanes{PerLane: 10 * time.Microsecond, Most: c.most, RTT: c.rtt}
		if got := l.Limit(); got != c.want {
			t.Errorf("round trip %v, at most %d: got %d lanes, want %d", c.rtt, c.most, got, c.want)
		}
	}
}

// The quickest recent command counts; slower ones raise it little by little.
func TestLanes_Observe(t *testing.T) {
	t.Parallel()
	var l batch.Lanes
	for _, rtt := range []time.Duration{time.Millisecond, 0, 256 * time.Microsecond, -1} {
		l.Observe(rtt)
	}
	if l.RTT != 256*time.Microsecond {
		t.Errorf("got %v, want the quickest, 256µs", l.RTT)
	}
	if l.Observe(512 * time.Microsecond); l.RTT != 257*time.Microsecond {
		t.Errorf("got %v after a slower one, want 257µs", l.RTT)
	}
}
