package backend_test

import (
	"fmt"
	"testing"

	"github.com/cacheaside/aside/backend"
)

func TestLeaseState_String(t *testing.T) {
	t.Parallel()
	for s, want := range map[backend.LeaseState]string{
		backend.Granted: "Granted", backend.Loading: "Loading", backend.Writing: "Writing", backend.Unleased: "Unleased",
		backend.Present: "Present", backend.Absent: "Absent", backend.Marked: "Marked", backend.Gone: "Gone",
		0: "LeaseState(0)", 9: "LeaseState(9)", -1: "LeaseState(-1)",
	} {
		if got := fmt.Sprint(s); got != want {
			t.Errorf("LeaseState %d is %q, want %q", int(s), got, want)
		}
	}
}

func TestMark_String(t *testing.T) {
	t.Parallel()
	for m, want := range map[backend.Mark]string{
		backend.Unmarked: "Unmarked", backend.Fresh: "Fresh", backend.Leased: "Leased", backend.NotFound: "NotFound",
		4: "Mark(4)", -1: "Mark(-1)",
	} {
		if got := fmt.Sprint(m); got != want {
			t.Errorf("Mark %d is %q, want %q", int(m), got, want)
		}
	}
}
