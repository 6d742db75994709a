// Package foreign guards calls of code that users of the library supply: a backend, the hooks
// and the dialer of a Redis client, a log handler, the methods of their errors. A panic in it
// becomes an error.
//
// That is unusual for a Go library, and has a reason: the cache calls such code on goroutines
// of its own, on which no caller could recover. A panic there would end the process, for a
// cache that the service could have done without.
//
// [Catch] and [Safely] guard one call, [Backend] guards each method of a backend, and [Logs]
// a log handler. None of them can keep a goroutine that ends with runtime.Goexit; see
// [ErrExited].
package foreign

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/redis/go-redis/v9"
)

// Panic is the error that a panic becomes. Its text does not contain the stack, which a log should
// have once and not with each call.
type Panic struct {
	Value any    // the argument of panic
	Stack []byte // of the goroutine that panicked
}

func (p *Panic) Error() string { return fmt.Sprintf("the backend panicked: %v", p.Value) }

// ErrExited is the error for a call whose goroutine ended with runtime.Goexit, as FailNow of
// package testing ends it. Nothing can keep such a goroutine, so the code that runs the call
// must report this error to its waiters in a deferred function.
var ErrExited = errors.New("code of the backend ended its goroutine with runtime.Goexit")

// Catch must be deferred. It turns a panic into an error in *err, and replaces an error there
// by [Examined] of it.
func Catch(err *error) {
	if p := recover(); p != nil {
		*err = &Panic{p, debug.Stack()}
	} else if *err != nil {
		*err = Examined(*err)
	}
}

// errNone is an error that no other is, for errors.Is.
var errNone = errors.New("no error of others is this one")

// Examined returns err, or a *Panic if one of its methods (Error, Is, As, Unwrap) panics. The
// cache calls these in many places, and trusts them after this.
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

// Safely calls code and returns its results. A panic in code is an error.
func Safely[T any](ctx context.Context, code func(context.Context) (T, error)) (v T, err error) {
	defer Catch(&err)
	return code(ctx)
}
