// Package recent remembers keys for a while, such as those for which an attempt has just
// failed and should not be repeated yet.
//
// It is a hint and not a record. At its bound it forgets all keys, which needs no order of
// them and costs one needless attempt each.
package recent

import (
	"sync"
	"time"
)

// maxKeys is how many keys are remembered.
const maxKeys = 1024

// Keys remembers keys, each for a time. The zero value is ready to use, and its methods may be
// called concurrently.
type Keys struct {
	mu    sync.Mutex
	until map[string]time.Time // at most maxKeys; entries that are over stay until looked up
}

// Add remembers key for d. If maxKeys are remembered already, it forgets all of them first.
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
