package aside

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cacheaside/aside/internal/redisstore"
)

const (
	// leftAlone is how long a value that takes longer than the budget is neither read
	// nor stored, and maxLeftAlone how many keys are remembered for that.
	leftAlone    = 30 * time.Second
	maxLeftAlone = 1024
)

var errTooLong = errors.New("aside: its transfer takes longer than Config.Timeout")

// tooLong remembers keys whose values take longer than the budget, although the backend
// answers others: to try each time would cost each caller a budget, and the line its
// room.
type tooLong struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (m *tooLong) add(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.until == nil || len(m.until) >= maxLeftAlone {
		m.until = make(map[string]time.Time)
	}
	m.until[key] = time.Now().Add(leftAlone)
}

func (m *tooLong) has(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	until, ok := m.until[key]
	if ok && time.Now().After(until) {
		delete(m.until, key)
		ok = false
	}
	return ok
}

// readTooLong takes a read that timed out while it was the only large one on its way.
// It is about the value if the node answers others.
func (f *front) readTooLong(n *node, key string) {
	f.later(func() {
		if n.Probe() != nil {
			return
		}
		n.Success()
		n.bulk.skip.add(key)
		f.warnOnce(f.spaceOf(key), key, "cache: stored values take too long to read, and are loaded (logged once per keyspace)", errTooLong)
	})
}

// fillFailed takes a fill that failed. If it was one of a large value that timed out, and
// the node answers others, it is about the value; and to send it again is of no use for
// a while, unless other large values shared the line with it.
func (f *front) fillFailed(space *Keyspace, key string, size int, err error) {
	if f.local || size <= redisstore.AloneBytes || !isTimeout(err) {
		return
	}
	n, alone := f.nodeOf(key), f.filling.Load() == 0
	f.later(func() {
		if n.Probe() != nil {
			return
		}
		n.Success()
		if alone {
			f.unstored.add(key)
		}
		f.notStored(space, key, fmt.Errorf("%w: it has %d bytes", errTooLong, size))
	})
}

// spaceOf returns a keyspace with the name of the key's.
func (f *front) spaceOf(key string) *Keyspace {
	name, _, _ := strings.Cut(strings.TrimPrefix(key, f.cfg.KeyPrefix), ":")
	return &Keyspace{Name: name}
}
