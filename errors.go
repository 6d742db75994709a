package aside

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/cacheaside/aside/backend"
)

var (
	// ErrNotFound is what a loader returns, perhaps wrapped, when the database
	// has no such thing. GetOrLoad returns the loader's error to its callers, and
	// remembers it for the keyspace's NotFoundTTL when that is set: it then
	// returns ErrNotFound itself. Any error that wraps ErrNotFound counts, also one
	// from a GetOrLoad of another key inside the loader: the key being loaded is then
	// remembered as not found. A loader for which a missing part is no absence of the
	// whole should return a value without the part, or format the error with %v.
	ErrNotFound = errors.New("aside: not found")

	// ErrClosed is returned by every operation on a Cache after Close: it was not
	// carried out. An Update whose write has run does not return it.
	ErrClosed = backend.ErrClosed

	// ErrUnavailable is returned by the methods of a Cache, never by GetOrLoad,
	// while the circuit breaker is open or the backend does not answer in time.
	ErrUnavailable = errors.New("aside: the cache backend is unavailable")

	// ErrInvalidKey is wrapped by errors that say what is wrong with a key.
	ErrInvalidKey = errors.New("aside: invalid key")

	// ErrWriteRefused is returned by Update when Config.RefuseWrites is set and
	// the keys could not be blocked. The write has not run.
	ErrWriteRefused = errors.New("aside: write refused: its keys could not be blocked in the cache")

	// ErrBlockLost is the cause with which the context of an Update's write ends
	// when the block on its keys could not be renewed in time.
	ErrBlockLost = errors.New("aside: the block on the keys could not be renewed")

	// ErrGenerating is returned by Generations.Start when one is running.
	ErrGenerating = errors.New("aside: a generation is already running")

	// ErrNotGenerating is returned by Generations.Cancel when none is running.
	ErrNotGenerating = errors.New("aside: no generation is running")

	// ErrCancelled is the cause with which a generation's context ends when
	// someone cancelled it.
	ErrCancelled = errors.New("aside: the generation was cancelled")

	errAbandoned = errors.New("aside: every caller of the load has left")
	errGoexit    = errors.New("aside: the loader ended its goroutine with runtime.Goexit")
)

// loadTimeout is the error of a load that took longer than Config.LoadTimeout. It is a
// context.DeadlineExceeded.
type loadTimeout struct {
	key   string
	after time.Duration
}

func (e *loadTimeout) Error() string {
	return fmt.Sprintf("aside: the load of %.200q took longer than %v (Config.LoadTimeout)", e.key, e.after)
}

func (e *loadTimeout) Unwrap() error { return context.DeadlineExceeded }

// PanicError is what GetOrLoad panics with, in each caller that waited for it,
// when a loader panicked. A panic with http.ErrAbortHandler, which net/http compares
// by identity, is handed on as it is.
type PanicError struct {
	Value any    // what the loader panicked with
	Stack []byte // the loader's stack
}

func (p *PanicError) Error() string {
	return fmt.Sprintf("aside: the loader panicked: %v\n\n%s", p.Value, p.Stack)
}

// isAbortHandler reports whether a panic value is http.ErrAbortHandler, which net/http
// knows by its identity, and no wrapper of. This package does not link net/http for
// one variable: it is known by its type and text.
func isAbortHandler(p any) bool {
	return reflect.TypeOf(p) == reflect.TypeOf(ErrNotFound) && p.(error).Error() == "net/http: abort Handler"
}

// Unwrap returns Value when it is an error.
func (p *PanicError) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}
