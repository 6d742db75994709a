package aside_test

import (
	"context"
	"fmt"
	"slices"

	"github.com/cacheaside/aside"
)

type chatMessage struct {
	Author string `json:"author"`
	Text   string `json:"text"`
}

// chatRepository keeps rooms in a database, here a map, behind a cache. Its callers see no cache.
type chatRepository struct {
	cache aside.Cache
	rooms map[string][]chatMessage
}

// Messages returns the conversation of a room.
func (r *chatRepository) Messages(ctx context.Context, chatID string) ([]chatMessage, error) {
	return aside.GetOrLoad(ctx, r.cache, aside.ChatMessages(chatID), func(ctx context.Context) ([]chatMessage, error) {
		fmt.Println("SELECT author, text FROM messages WHERE chat_id =", chatID)
		return slices.Clone(r.rooms[chatID]), nil
	})
}

// AddMessage adds a message to a room. The write has committed when its function returns.
func (r *chatRepository) AddMessage(ctx context.Context, chatID string, m chatMessage) error {
	return aside.Update(ctx, r.cache, func(ctx context.Context) error {
		fmt.Println("INSERT INTO messages")
		r.rooms[chatID] = append(r.rooms[chatID], m)
		return nil
	}, aside.ChatMessages(chatID))
}

// A repository wraps its queries in GetOrLoad and its writes in Update.
func Example() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx, chats := context.Background(), &chatRepository{cache: cache, rooms: map[string][]chatMessage{}}

	for _, text := range []string{"hello", "how can I help?"} {
		if err := chats.AddMessage(ctx, "A", chatMessage{Author: "bot", Text: text}); err != nil {
			panic(err)
		}
		for range 2 {
			messages, err := chats.Messages(ctx, "A")
			fmt.Println(messages, err)
		}
	}
	// Output:
	// INSERT INTO messages
	// SELECT author, text FROM messages WHERE chat_id = A
	// [{bot hello}] <nil>
	// [{bot hello}] <nil>
	// INSERT INTO messages
	// SELECT author, text FROM messages WHERE chat_id = A
	// [{bot hello} {bot how can I help?}] <nil>
	// [{bot hello} {bot how can I help?}] <nil>
}
