package aside_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"log/slog"
	"time"

	"github.com/cacheaside/aside"
)

// sealing is a Codec that encrypts values. Each can be read under its own key only.
type sealing struct {
	aead cipher.AEAD
	key  string
}

// ForKey is called for each read, with the key as it stands in the backend.
func (s sealing) ForKey(key string) aside.Codec {
	s.key = key
	return s
}

func (s sealing) Encode(value any) ([]byte, error) {
	plain, err := aside.JSON.Encode(value)
	if err != nil {
		return nil, err
	}
	return s.aead.Seal(nil, nil, plain, []byte(s.key)), nil
}

func (s sealing) Decode(data []byte, ptr any) error {
	plain, err := s.aead.Open(nil, nil, data, []byte(s.key))
	if err != nil {
		return err
	}
	return aside.JSON.Decode(plain, ptr)
}

// Notes are encrypted in the backend. The bytes of one note under the key of another do not
// decode, so the note is loaded.
func ExampleCodec_forKey() {
	block, err := aes.NewCipher(make([]byte, 32)) // a key from the service's secrets
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	cache, err := aside.Open(aside.Config{Type: "memory", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	notes := aside.Keyspace{Name: "note", Codec: sealing{aead: aead}}
	ctx := context.Background()
	read := func(id string) {
		note, err := aside.GetOrLoad(ctx, cache, notes.Key(id), func(context.Context) (string, error) {
			fmt.Println("loading", id)
			return "the note " + id, nil
		})
		fmt.Println(note, err)
	}

	read("A")
	read("A")
	sealed, _, err := cache.Get(ctx, "note:A")
	if err != nil {
		panic(err)
	}
	if err := cache.Set(ctx, "note:B", sealed, time.Hour); err != nil { // an attacker copies A's bytes
		panic(err)
	}
	read("B")
	// Output:
	// loading A
	// the note A <nil>
	// the note A <nil>
	// loading B
	// the note B <nil>
}
