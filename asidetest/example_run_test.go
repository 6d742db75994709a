package asidetest_test

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
)

// Store is the backend under test. This one leaves everything to aside's own on Redis.
type Store struct{ backend.Backend }

// OpenStore returns the Store at addr.
func OpenStore(addr string) (*Store, error) {
	cache, err := aside.Open(aside.Config{
		Redis:   aside.Redis{Hosts: []string{addr}},
		Timeout: 10 * time.Second, // for a busy test machine; a service keeps the default
	})
	if err != nil {
		return nil, err
	}
	return &Store{cache.(backend.Backend)}, nil
}

// testStore is TestStore in the package of the Store.
func testStore(t *testing.T) {
	var server *miniredis.Miniredis
	now := time.Now()
	asidetest.Run(t, asidetest.Harness{
		New: func(t *testing.T) backend.Backend {
			server = miniredis.RunT(t)
			server.SetTime(now)
			store, err := OpenStore(server.Addr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { store.Close() })
			return store
		},
		Advance: func(_ *testing.T, d time.Duration) { // puts the store's clock forward; without it, the suite sleeps
			now = now.Add(d)
			server.SetTime(now)
			server.FastForward(d)
		},
	})
}

// A test of the backend's package hands the suite a way to open an empty backend.
func ExampleRun() {
	_ = testStore // which go test calls, as TestStore
}
