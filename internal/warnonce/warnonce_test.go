package warnonce_test

import (
	"fmt"
	"testing"

	"github.com/cacheaside/aside/internal/warnonce"
)

func TestWarnings(t *testing.T) {
	t.Parallel()
	var w warnonce.Warnings
	for i := range 300 {
		name := fmt.Sprint(i)
		first, last := w.Add(name, "trouble")
		if again, _ := w.Add(name, "trouble"); again || first != (i < 256) || last != (i == 255) {
			t.Errorf("keyspace %d: got first %v, last %v, again %v, want %v, %v, false", i, first, last, again, i < 256, i == 255)
		}
	}
	if first, _ := w.Add("0", "other trouble"); !first {
		t.Error("got false of another message, want true")
	}
}
