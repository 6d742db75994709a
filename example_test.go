package aside_test

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/cacheaside/aside"
)

// Values are plain: other programs read them with GET. Under a KeyPrefix several services
// share one Redis.
func ExampleOpen() {
	server, err := miniredis.Run() // a Redis in this process
	if err != nil {
		panic(err)
	}
	defer server.Close()
	cache, err := aside.Open(aside.Config{
		Redis:     aside.Redis{Hosts: []string{server.Addr()}},
		KeyPrefix: "support:",
		TTLs:      map[string]time.Duration{"chat_messages": time.Hour},
		Timeout:   10 * time.Second, // for a busy test machine; a service keeps the default
	})
	if err != nil {
		panic(err)
	}

	messages, err := aside.GetOrLoad(context.Background(), cache, aside.ChatMessages("A"), func(context.Context) ([]string, error) {
		return []string{"hello"}, nil
	})
	fmt.Println(messages, err)
	if err := cache.Close(); err != nil { // the value is stored by then
		panic(err)
	}

	fmt.Println(server.Get("support:chat_messages:A"))
	fmt.Println(server.TTL("support:chat_messages:A"))
	// Output:
	// [hello] <nil>
	// ["hello"] <nil>
	// 1h0m0s
}

// A service hands in os.Environ(). The error names each variable that is wrong.
func ExampleConfigFromEnv() {
	_, err := aside.ConfigFromEnv([]string{"CACHE_TYPE=memcached", "REDIS_PORT=70000"})
	fmt.Println(err)
	cfg, err := aside.ConfigFromEnv([]string{"CACHE_TYPE=memory", "CACHE_TTL_CHAT_MESSAGES=30m"})
	fmt.Println(cfg.Type, cfg.TTLs["chat_messages"], err)
	// Output:
	// aside: CACHE_TYPE: want redis, memory or none
	// aside: REDIS_PORT="70000": want a port from 1 to 65535
	// memory 30m0s <nil>
}

// An administrator's page shows the settings that apply, defaults included and secrets left out.
func ExampleConfig_InForce() {
	cfg := aside.Config{Redis: aside.Redis{
		URL: "rediss://chat:Tr0ub4dor@redis.internal/2",
	}}
	cfg, err := cfg.InForce()
	if err != nil {
		panic(err)
	}
	fmt.Println(cfg.Type, cfg.Timeout)
	fmt.Println(cfg.Redis.Hosts, cfg.Redis.DB, cfg.Redis.TLS, cfg.Redis.Username, cfg.Redis.Password)
	// Output:
	// redis 250ms
	// [redis.internal:6379] 2 true *** ***
}
