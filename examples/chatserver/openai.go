package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// model is a Responder that asks a server with OpenAI's interface.
type model struct {
	client  openai.Client
	name    string
	timeout time.Duration // for the first piece of a reply, and for each next one
}

func newModel(baseURL, apiKey, name string, timeout time.Duration) model {
	options := []option.RequestOption{option.WithAPIKey(apiKey), option.WithMaxRetries(1)}
	if baseURL != "" {
		options = append(options, option.WithBaseURL(baseURL))
	}
	return model{openai.NewClient(options...), name, timeout}
}

// ModelError says why a model gave no more of its reply.
type ModelError struct {
	Kind    string // timeout, length, refused, busy, failed or unreachable
	Message string // for the reader
	err     error
}

func (e *ModelError) Error() string { return fmt.Sprintf("%s: %v", e.Message, e.err) }
func (e *ModelError) Unwrap() error { return e.err }

var errSilent = errors.New("the model was silent for too long")

func (m model) Respond(ctx context.Context, history []Message) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		asked, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		silence := time.AfterFunc(m.timeout, func() { cancel(errSilent) })
		defer silence.Stop()
		stream := m.client.Chat.Completions.NewStreaming(asked, openai.ChatCompletionNewParams{Model: m.name, Messages: prompt(history)})
		defer stream.Close()
		ended := ""
		for stream.Next() {
			silence.Stop()
			for _, choice := range stream.Current().Choices {
				if choice.Delta.Content != "" && !yield(choice.Delta.Content, nil) {
					return
				}
				ended = cmp.Or(choice.FinishReason, ended)
			}
			silence.Reset(m.timeout)
		}
		if err := m.explain(asked, stream.Err(), ended); err != nil && ctx.Err() == nil {
			yield("", err)
		}
	}
}

func prompt(history []Message) []openai.ChatCompletionMessageParamUnion {
	out := make([]openai.ChatCompletionMessageParamUnion, len(history))
	for i, m := range history {
		switch m.Role {
		case "assistant":
			out[i] = openai.AssistantMessage(m.Content)
		case "system":
			out[i] = openai.SystemMessage(m.Content)
		default:
			out[i] = openai.UserMessage(m.Content)
		}
	}
	return out
}

// explain says why a reply is not whole. ended is the reason for its end that the
// model gave.
func (m model) explain(asked context.Context, err error, ended string) error {
	var reply *openai.Error
	switch {
	case errors.Is(context.Cause(asked), errSilent):
		return &ModelError{"timeout", fmt.Sprintf("the model was silent for %v", m.timeout), err}
	case err == nil && ended == "stop":
		return nil
	case ended == "length":
		return &ModelError{"length", "the reply became longer than the model allows", err}
	case err == nil && ended != "":
		return &ModelError{"failed", fmt.Sprintf("the model ended the reply: %.40s", ended), err}
	case !errors.As(err, &reply):
		return &ModelError{"unreachable", "the model's server can not be reached, broke off, or is none", err}
	case reply.StatusCode == http.StatusUnauthorized || reply.StatusCode == http.StatusForbidden:
		return &ModelError{"refused", fmt.Sprintf("the model's server refused the key (%d)", reply.StatusCode), err}
	case reply.StatusCode == http.StatusTooManyRequests:
		return &ModelError{"busy", "the model's server is busy, or the quota is used up (429)", err}
	}
	return &ModelError{"failed", fmt.Sprintf("the model's server answered %d", reply.StatusCode), err}
}
