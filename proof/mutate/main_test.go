package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// A breakage that can not be applied any more tests nothing.
func TestBreakagesApply(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, b := range breakages {
		if names[b.name] {
			t.Errorf("%s: two breakages have this name", b.name)
		}
		names[b.name] = true
		for _, e := range b.edits {
			text, err := os.ReadFile(filepath.Join("..", "..", e.file))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(text, []byte(e.old)); n != 1 || e.old == e.new {
				t.Errorf("%s: %s has this %d times, want once, and changed:\n%s", b.name, e.file, n, e.old)
			}
		}
	}
}
