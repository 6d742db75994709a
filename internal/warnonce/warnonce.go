// Package warnonce remembers which warnings have been logged, so that trouble that each
// call meets is logged once for each keyspace. It bounds the number of keyspaces that one
// message is logged for.
package warnonce

import (
	"strings"
	"sync"
)

// maxNames is how many keyspaces a message is logged for.
const maxNames = 256

// Warnings remembers what was logged once for a keyspace, and need not be again. Its
// zero value is ready, and its methods may be called concurrently.
type Warnings struct {
	mu    sync.Mutex
	known map[string]map[string]bool // names of keyspaces by message
}

// Add reports whether message is the first of its kind for the keyspace, and whether
// it is the last that is logged for any.
func (w *Warnings) Add(space, message string) (first, last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := w.known[message]
	if names[space] || len(names) >= maxNames {
		return false, false
	}
	if names == nil {
		names = make(map[string]bool)
		if w.known == nil {
			w.known = make(map[string]map[string]bool)
		}
		w.known[message] = names
	}
	names[strings.Clone(space)] = true
	return true, len(names) == maxNames
}
