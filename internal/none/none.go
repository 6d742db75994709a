// Package none is the backend that stores nothing.
package none

import (
	"context"
	"time"

	"github.com/cacheaside/aside/backend"
)

// Backend stores nothing and never grants a lease, so that every read loads.
type Backend struct{}

// Name is that of the Backend.
const Name = "none"

func (Backend) Get(context.Context, string) ([]byte, bool, error) { return nil, false, nil }
func (Backend) GetMarked(context.Context, string) ([]byte, backend.Mark, bool, error) {
	return nil, 0, false, nil
}
func (Backend) Set(context.Context, string, []byte, time.Duration) error { return nil }
func (Backend) Delete(context.Context, ...string) error                  { return nil }
func (Backend) Fill(context.Context, string, string, backend.Fill) (bool, error) {
	return false, nil
}
func (Backend) Release(context.Context, string, string) error                 { return nil }
func (Backend) Block(context.Context, string, time.Duration, ...string) error { return nil }
func (Backend) Unblock(context.Context, string, ...string) error              { return nil }
func (Backend) Clear(context.Context, ...string) error                        { return nil }
func (Backend) Close() error                                                  { return nil }
func (Backend) TTL(context.Context, string) (time.Duration, bool, error)      { return 0, false, nil }
func (Backend) Lease(context.Context, string, backend.LeaseRequest) (backend.Lease, error) {
	return backend.Lease{State: backend.Writing}, nil
}
func (Backend) Info(context.Context) (backend.Info, error) {
	return backend.Info{Name: Name}, nil
}
func (Backend) Extend(context.Context, string, time.Duration, ...string) (bool, error) {
	return true, nil // a write under a block that nobody needs is not to be interrupted
}
