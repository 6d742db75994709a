package aside_test

import (
	"context"
	"fmt"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
)

// journal is a backend that notes each write, and leaves the rest to the backend in it.
type journal struct {
	backend.Backend
}

func (j *journal) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error {
	fmt.Println("write begins:", keys)
	return j.Backend.Block(ctx, token, ttl, keys...)
}

func (j *journal) Unblock(ctx context.Context, token string, keys ...string) error {
	fmt.Println("write has ended:", keys)
	return j.Backend.Unblock(ctx, token, keys...)
}

// A backend of the caller's own implements backend.Backend. The suite asidetest.Run checks it.
func ExampleNew() {
	cache, err := aside.New(&journal{asidetest.Memory()}, aside.Config{})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	err = aside.Update(context.Background(), cache, func(context.Context) error {
		fmt.Println("INSERT INTO messages")
		return nil
	}, aside.ChatMessages("A"), aside.UserChats("ann"))
	fmt.Println(err)
	// Output:
	// write begins: [chat_messages:A user_chats:ann]
	// INSERT INTO messages
	// write has ended: [chat_messages:A user_chats:ann]
	// <nil>
}
