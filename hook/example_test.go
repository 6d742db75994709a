package hook_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/hook"
)

// A service logs its slow loads. The context has the values of the caller's, such as the id of
// the request.
func Example() {
	type requestID struct{}
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{} // the output of an example is the same each time
			}
			return a
		},
	}))
	slow := time.Duration(0) // 100 ms in a service

	cache, err := aside.Open(aside.Config{
		Type: "memory",
		Hooks: []hook.Hooks{{
			Load: func(ctx context.Context, l hook.Load) (context.Context, func(hook.LoadEnd)) {
				return ctx, func(end hook.LoadEnd) {
					if end.Duration >= slow {
						logger.Warn("slow load", "keyspace", l.Keyspace, "reason", l.Reason, "request", ctx.Value(requestID{}), "err", end.Err)
					}
				}
			},
		}},
	})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx := context.WithValue(context.Background(), requestID{}, "7f3a")
	for range 2 {
		if _, err := aside.GetOrLoad(ctx, cache, aside.ChatMessages("A"), func(context.Context) (string, error) {
			return "hello", nil
		}); err != nil {
			panic(err)
		}
	}
	// Output:
	// level=WARN msg="slow load" keyspace=chat_messages reason=miss request=7f3a err=<nil>
}

// A service counts its reads by outcome. Hits are reported only where Hits is set.
func ExampleHooks() {
	outcomes := make(map[string]int) // with a mutex in a service, which has many callers at once
	cache, err := aside.Open(aside.Config{
		Type: "memory",
		Hooks: []hook.Hooks{{
			Hits: true,
			Read: func(_ context.Context, r hook.Read) { outcomes[r.Keyspace+" "+r.Outcome]++ },
		}},
	})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	for range 5 {
		if _, err := aside.GetOrLoad(context.Background(), cache, aside.ChatMessages("A"), func(context.Context) (string, error) {
			return "hello", nil
		}); err != nil {
			panic(err)
		}
	}
	fmt.Println(outcomes)
	// Output:
	// map[chat_messages hit:4 chat_messages miss:1]
}

// Trouble is reported when it begins and when it is over, once each, in a goroutine of its own.
func ExampleState() {
	states := make(chan hook.State, 2)
	store := &asidetest.Faulty{Backend: asidetest.Memory()} // in place of a Redis
	cache, err := aside.New(store, aside.Config{
		Hooks: []hook.Hooks{{
			State: func(s hook.State) {
				if s.Trouble == hook.Queue { // invalidations wait for the backend
					states <- s
				}
			},
		}},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx, key := context.Background(), aside.ChatMessages("A")

	refused := errors.New("connection refused")
	store.SetFault(func(context.Context, string) error { return refused })
	if err := aside.Invalidate(ctx, cache, key); err != nil {
		panic(err)
	}
	s := <-states
	fmt.Println(s.Trouble, "begins:", s.Begins, "refused:", errors.Is(s.Err, refused))
	store.SetFault(nil)
	s = <-states
	fmt.Println(s.Trouble, "begins:", s.Begins)
	// Output:
	// queue begins: true refused: true
	// queue begins: false
}
