// Package warnonce remembers which warnings have been logged, so that a problem that every
// call meets, such as values that are too large to store, is logged once for each keyspace.
// Names of keyspaces may be made up at run time, so it logs a message for a limited number of
// them.
package warnonce

import (
	"strings"
	"sync"
)

// maxNames is the number of keyspaces for which a message is logged.
const maxNames = 256

// Warnings remembers warnings by message and keyspace. The zero value is ready to use, and its
// methods may be called concurrently.
type Warnings struct {
	mu    sync.Mutex
	known map[string]map[string]bool // names of keyspaces by message
}

// Add adds a warning. first reports whether to log it: message is new for the keyspace space,
// and was not logged for maxNames others. last reports that no further keyspace follows, which
// the log should mention. message must be one of a few texts, as each is kept.
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
