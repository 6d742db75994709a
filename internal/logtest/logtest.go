// Package logtest has a buffer for tests that read a log while other goroutines write it.
package logtest

import (
	"bytes"
	"sync"
)

// Buffer is a [bytes.Buffer] for one log: goroutines may write to it while a test reads it. The
// zero value is empty and ready to use.
type Buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
