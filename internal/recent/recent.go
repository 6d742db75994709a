// Package recent remembers keys for a while: those for which an attempt has just failed
// and should not be repeated yet. It is a hint, not a record, and forgets early when there
// are many keys.
package recent

import (
	"sync"
	"time"
)

// maxKeys is how many keys are remembered.
const maxKeys = 1024

// Keys remembers keys for a time. Its methods may be called concurrently. Its zero value
// is ready.
type Keys struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// Add remembers key for d. When there are too many, the others are forgotten.
func (k *Keys) Add(key string, d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.until == nil || len(k.until) >= maxKeys {
		k.until = make(map[string]time.Time)
	}
	k.until[key] = time.Now().Add(d)
}

// Has reports whether key is remembered.
func (k *Keys) Has(key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	until, ok := k.until[key]
	if ok && time.Now().After(until) {
		delete(k.until, key)
		ok = false
	}
	return ok
}
