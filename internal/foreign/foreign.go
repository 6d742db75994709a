// Package foreign calls code of others: a backend, the hooks and the dialer of a Redis
// client, a log handler, the methods of their errors. Such code often runs on a goroutine
// on which no caller could recover. Its panic must not end the process, so it becomes an
// error.
//
// [Catch] and [Safely] guard one call, [Backend] guards each method of a backend, and
// [Logs] a log handler. None of them can keep a goroutine that foreign code ends with
// runtime.Goexit: see [ErrExited].
package foreign

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/redis/go-redis/v9"
)

// Panic is the error in place of a panic.
type Panic struct {
	Value any    // of the panic
	Stack []byte // of the goroutine that panicked
}

func (p *Panic) Error() string { return fmt.Sprintf("the backend panicked: %v", p.Value) }

// ErrExited is the error of code that ended its goroutine with runtime.Goexit, as the
// testing package's FailNow does: nothing can keep the goroutine, so whoever waits for it
// must be told by a deferred function.
var ErrExited = errors.New("code of the backend ended its goroutine with runtime.Goexit")

// Catch is to be deferred. It turns a panic into an error, and replaces an error whose
// methods panic by one whose methods do not.
func Catch(err *error) {
	if p := recover(); p != nil {
		*err = &Panic{p, debug.Stack()}
	} else if *err != nil {
		*err = Examined(*err)
	}
}

var errNone = errors.New("no error of others is this one")

// Examined returns err if its methods can be called, as is done in many places, and
// otherwise a *Panic.
func Examined(err error) (same error) {
	if err == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			same = &Panic{p, debug.Stack()}
		}
	}()
	var reply redis.Error
	errors.As(err, &reply)
	errors.Is(err, errNone)
	_ = err.Error()
	return err
}

// Safely runs code of others. Its panic is an error.
func Safely[T any](ctx context.Context, code func(context.Context) (T, error)) (v T, err error) {
	defer Catch(&err)
	return code(ctx)
}
