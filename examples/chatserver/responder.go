package main

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Responder generates the reply to a conversation, piece by piece. When ctx ends, it stops
// without an error. After an error it yields nothing more.
type Responder interface {
	Respond(ctx context.Context, history []Message) iter.Seq2[string, error]
}

// wordResponder is the built-in Responder, which needs no model. It says something about the
// user's last message, one word per delay.
type wordResponder struct{ delay time.Duration }

func (w wordResponder) Respond(ctx context.Context, history []Message) iter.Seq2[string, error] {
	said := "nothing yet"
	for _, m := range history {
		if m.Role == "user" {
			said = `"` + m.Content + `"`
		}
	}
	reply := fmt.Sprintf("You said %s. This reply comes from the built-in responder, one word at a time, so that you can watch it stream and cancel it. "+
		"The conversation was read through the cache, and is invalidated there when this reply is saved.", said)
	return func(yield func(string, error) bool) {
		for word := range strings.SplitAfterSeq(reply, " ") {
			select {
			case <-time.After(w.delay):
			case <-ctx.Done():
				return
			}
			if !yield(word, nil) {
				return
			}
		}
	}
}
