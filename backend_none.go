package aside

import (
	"context"
	"time"

	"github.com/cacheaside/aside/backend"
)

// noneBackend stores nothing. It answers each lease request as if a writer blocked the
// key, so that every read loads and stores nothing; loads are still coalesced in the
// process.
type noneBackend struct{}

func (noneBackend) Get(context.Context, string) ([]byte, bool, error) { return nil, false, nil }
func (noneBackend) GetMarked(context.Context, string) ([]byte, backend.Mark, bool, error) {
	return nil, 0, false, nil
}
func (noneBackend) Set(context.Context, string, []byte, time.Duration) error { return nil }
func (noneBackend) Delete(context.Context, ...string) error                  { return nil }
func (noneBackend) Fill(context.Context, string, string, backend.Fill) (bool, error) {
	return false, nil
}
func (noneBackend) Release(context.Context, string, string) error                 { return nil }
func (noneBackend) Block(context.Context, string, time.Duration, ...string) error { return nil }
func (noneBackend) Unblock(context.Context, string, ...string) error              { return nil }
func (noneBackend) Clear(context.Context, ...string) error                        { return nil }
func (noneBackend) Close() error                                                  { return nil }
func (noneBackend) TTL(context.Context, string) (time.Duration, bool, error)      { return 0, false, nil }
func (noneBackend) Lease(context.Context, string, backend.LeaseRequest) (backend.Lease, error) {
	return backend.Lease{State: backend.Writing}, nil
}
func (noneBackend) Info(context.Context) (backend.Info, error) {
	return backend.Info{Name: typeNone}, nil
}
func (noneBackend) Extend(context.Context, string, time.Duration, ...string) (bool, error) {
	return true, nil // false would end the context of an Update's write
}
