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
	// ErrNotFound is returned by a loader, wrapped or not, when the database has no value
	// for the key. GetOrLoad returns the loader's error, and remembers it for the keyspace's
	// NotFoundTTL, if that is set. While it is remembered, GetOrLoad returns ErrNotFound
	// itself.
	//
	// Any error that wraps ErrNotFound counts, even one from a GetOrLoad of another key
	// inside the loader. If a missing part does not make the whole missing, the loader
	// should return a value without that part, or format the error with %v.
	ErrNotFound = errors.New("aside: not found")

	// ErrClosed is returned by every operation on a closed Cache: it was not carried out. An
	// Update that has run its write does not return it.
	ErrClosed = backend.ErrClosed

	// ErrUnavailable is returned by the methods of a Cache, and by Peek, Generations.Running
	// and Generations.Cancel, while the backend is unavailable or its breaker is open.
	// GetOrLoad, Update and Invalidate have no such error of their own. The operation may
	// have been carried out or not.
	ErrUnavailable = errors.New("aside: the cache backend is unavailable")

	// ErrInvalidKey is wrapped by errors about an invalid key, keyspace or prefix. It is a
	// mistake in the program: retrying does not help.
	ErrInvalidKey = errors.New("aside: invalid key")

	// ErrWriteRefused is returned by Update if Config.RefuseWrites is set and the keys could
	// not be blocked. The write has not run, so the caller may retry.
	ErrWriteRefused = errors.New("aside: write refused: its keys could not be blocked in the cache")

	// ErrBlockLost is the cause of the end of a write's context in Update, when the block on
	// its keys could not be renewed in time. If the write commits all the same, readers may
	// store and return the old value until Update invalidates the keys once more, after the
	// write.
	ErrBlockLost = errors.New("aside: the block on the keys could not be renewed")

	// ErrGenerating is returned by Generations.Start while another generation runs in the
	// room.
	ErrGenerating = errors.New("aside: a generation is already running")

	// ErrNotGenerating is returned by Generations.Cancel if no generation runs in the room.
	ErrNotGenerating = errors.New("aside: no generation is running")

	// ErrCancelled is the cause of the end of a generation's context after a Cancel. The
	// caller should save the partial reply, or drop it, and call Finish.
	ErrCancelled = errors.New("aside: the generation was cancelled")

	errAbandoned = errors.New("aside: every caller of the load has left")
	errGoexit    = errors.New("aside: loader ended its goroutine with runtime.Goexit")
)

// loadTimeout is the error of a load that took longer than Config.LoadTimeout. It wraps
// context.DeadlineExceeded.
type loadTimeout struct {
	key   string
	after time.Duration
}

func (e *loadTimeout) Error() string {
	return fmt.Sprintf("aside: the load of %.200q took longer than %v (Config.LoadTimeout)", e.key, e.after)
}

func (e *loadTimeout) Unwrap() error { return context.DeadlineExceeded }

// PanicError is the value with which GetOrLoad panics, in each caller that waited for the
// load, when a loader panics. The exception is a panic with http.ErrAbortHandler, which
// is passed on as it is, since net/http compares it by identity.
type PanicError struct {
	Value any    // the value of the loader's panic
	Stack []byte // the stack of the loader's goroutine
}

func (p *PanicError) Error() string {
	return fmt.Sprintf("aside: loader panicked: %v\n\n%s", p.Value, p.Stack)
}

// isAbortHandler reports whether a panic value is http.ErrAbortHandler itself, not an
// error that wraps it. It goes by type and text, since importing net/http for one
// variable would link it into every service.
func isAbortHandler(p any) bool {
	return reflect.TypeOf(p) == reflect.TypeOf(ErrNotFound) && p.(error).Error() == "net/http: abort Handler"
}

// Unwrap returns Value if it is an error.
func (p *PanicError) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}
