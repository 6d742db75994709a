package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// model is a Responder that uses a server with OpenAI's interface.
type model struct {
	client  openai.Client
	name    string
	timeout time.Duration // the longest wait for the first piece of a reply, and for each next one
}

func newModel(baseURL, apiKey, name string, timeout time.Duration) model {
	options := []option.RequestOption{option.WithAPIKey(apiKey), option.WithMaxRetries(1)}
	if baseURL != "" {
		options = append(options, option.WithBaseURL(baseURL))
	}
	return model{openai.NewClient(options...), name, timeout}
}

// ModelError is a Responder's error for a reply that is not whole. Kind and Message are safe
// to show to clients; the wrapped error is for the log.
type ModelError struct {
	Kind    string // timeout, length, refused, busy, failed or unreachable
	Message string // for people
	err     error
}

func (e *ModelError) Error() string {
	if e.err == nil {
		return e.Message
	}
	return fmt.Sprintf("%s: %v", e.Message, e.err)
}

func (e *ModelError) Unwrap() error { return e.err }

var errSilent = errors.New("the model was silent for too long")

func (m model) Respond(ctx context.Context, history []Message) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		asked, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		silence := time.AfterFunc(m.timeout, func() { cancel(errSilent) })
		defer silence.Stop()
		stream, err := m.ask(asked, history)
		if stream != nil {
			defer stream.body.Close()
		}
		var text joiner
		for err == nil && stream.next() {
			silence.Stop()
			for _, data := range stream.text {
				if piece := text.join(data); piece != "" && !yield(piece, nil) {
					return
				}
			}
			silence.Reset(m.timeout)
		}
		if stream != nil {
			err = stream.err
		}
		if ctx.Err() != nil {
			return
		}
		if piece := text.rest(); piece != "" && !yield(piece, nil) {
			return
		}
		if err := m.explain(asked, err, stream); err != nil {
			yield("", err)
		}
	}
}

// ask requests a reply. The openai package makes the request and decodes an error answer.
func (m model) ask(ctx context.Context, history []Message) (*chunks, error) {
	var res *http.Response
	err := m.client.Post(ctx, "chat/completions", openai.ChatCompletionNewParams{Model: m.name, Messages: prompt(history)}, &res,
		option.WithJSONSet("stream", true), option.WithHeader("Accept", "text/event-stream"))
	if failed := (*url.Error)(nil); errors.As(err, &failed) {
		err = failed.Err // drop the URL, which may have a key in its user or query
	}
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxChunk)
	return &chunks{body: res.Body, lines: lines}, nil
}

// maxChunk is the largest piece of a reply that is read, in bytes.
const maxChunk = 16 << 20

// chunks reads the pieces of a reply as they arrive. It does not use the openai package's
// stream for two reasons: that does not tell a stream that ended with [DONE] from one that
// broke off, and it decodes each piece alone, where a character may begin in one and end in
// the next.
type chunks struct {
	body   io.ReadCloser
	lines  *bufio.Scanner
	text   []json.RawMessage // of the last chunk: JSON strings, for a joiner
	reason string            // why the reply ended: see reasonName
	done   bool              // whether [DONE] arrived
	err    error
}

// chunk is a piece of a reply, or an error that the server reports in its place. Servers
// disagree about the types of fields other than the text, so these are any, and no chunk is
// refused for them.
type chunk struct {
	Object, Type, Error, Message, Detail any
	Choices                              []choice
}

type choice struct {
	Index          any
	Delta, Message struct{ Content, Refusal json.RawMessage }
	Text           json.RawMessage
	FinishReason   any `json:"finish_reason"`
}

var (
	errModel   = errors.New("the model's server reported an error during the reply")
	errContent = errors.New("the model's server sent a part of the reply that is no text")
)

// next reads the next chunk, and reports whether there was one. A chunk with an error
// counts, as it may have text as well.
func (c *chunks) next() bool {
	for c.err == nil && !c.done && c.lines.Scan() {
		name, data, _ := bytes.Cut(c.lines.Bytes(), []byte(":")) // each field of a chunk is a line of its own
		data = bytes.TrimSpace(data)
		switch {
		case string(name) == "event" && bytes.Contains(bytes.ToLower(data), []byte("error")):
			c.err = errModel
		case string(name) != "data" || len(data) == 0:
		case bytes.HasPrefix(data, []byte("[DONE]")):
			c.done = true
		default:
			c.read(data)
			return true
		}
	}
	if c.err == nil && !c.done {
		c.err = c.lines.Err()
	}
	return false
}

// read decodes a chunk. Of several choices it takes the first, as the request asks for one.
func (c *chunks) read(data []byte) {
	c.text = nil
	var in chunk
	if c.err = json.Unmarshal(data, &in); c.err == nil && in.failed() {
		c.err = errModel
	}
	for i, choice := range in.Choices {
		index, ok := choice.Index.(float64)
		if ok && index != 0 || !ok && i > 0 {
			continue
		}
		text, err := choice.text()
		c.text = append(c.text, text...)
		c.err = cmp.Or(c.err, err)
		c.reason = cmp.Or(reasonName(choice.FinishReason), c.reason)
	}
}

// failed reports whether the chunk is an error.
func (c *chunk) failed() bool {
	return c.Object == "error" || c.Type == "error" || !absent(c.Error) ||
		c.Choices == nil && (!absent(c.Message) || !absent(c.Detail))
}

// text returns the text of a choice, as JSON strings, from the first of its delta, its
// completion and its message that has any. It does not join them, as some servers send the
// same text in two, or the whole reply as a message beside the last delta.
func (c *choice) text() ([]json.RawMessage, error) {
	for _, fields := range [][]json.RawMessage{{c.Delta.Content, c.Delta.Refusal}, {c.Text}, {c.Message.Content, c.Message.Refusal}} {
		var text []json.RawMessage
		var err error
		for _, field := range fields {
			parts, e := textParts(field)
			text, err = append(text, parts...), cmp.Or(err, e)
		}
		if text != nil || err != nil {
			return text, err
		}
	}
	return nil, nil
}

// textParts returns the text of a content, as JSON strings. The content is a string, or a
// list of strings and of parts. Parts with the model's reasoning, or with its references,
// are left out. It returns errContent with the text before anything else.
func textParts(content json.RawMessage) (text []json.RawMessage, err error) {
	switch {
	case isNull(content):
		return nil, nil
	case content[0] == '"':
		return []json.RawMessage{content}, nil
	}
	var list []json.RawMessage
	if json.Unmarshal(content, &list) != nil {
		return nil, errContent
	}
	for _, item := range list {
		var part struct {
			Type string
			Text json.RawMessage
		}
		switch {
		case item[0] == '"':
			part.Text = item
		case isNull(item) || json.Unmarshal(item, &part) != nil:
			return text, errContent
		}
		switch part.Type {
		case "thinking", "reasoning", "reference":
			continue
		case "", "text", "output_text":
		default:
			return text, errContent
		}
		if isNull(part.Text) {
			continue
		}
		if part.Text[0] != '"' {
			return text, errContent
		}
		text = append(text, part.Text)
	}
	return text, nil
}

// isNull reports whether a field was null or missing.
func isNull(field json.RawMessage) bool { return len(field) == 0 || string(field) == "null" }

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

// absent reports whether a field of a chunk says nothing. Servers put null, an empty
// value or the word null where others leave the field out.
func absent(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		v = strings.ToLower(strings.TrimSpace(v))
		return v == "" || v == "null" || v == "none"
	case bool:
		return !v
	case float64:
		return v == 0
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// reasonName returns the name of a finish_reason, which is safe to show: at most 40
// letters, digits, dashes and underscores. It is empty when there is no reason, and
// "unknown" when the reason has no name. Some servers send an object with the name in
// its type or reason.
func reasonName(reason any) string {
	if absent(reason) {
		return ""
	}
	if object, ok := reason.(map[string]any); ok {
		reason = cmp.Or(object["type"], object["reason"])
	}
	text, _ := reason.(string)
	var name []rune
	for _, r := range text {
		if len(name) < 40 && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_') {
			name = append(name, r)
		}
	}
	return cmp.Or(string(name), "unknown")
}

// wholeReasons are the reasons of a whole reply, in lower case and letters only. Any other
// reason is that of a reply that was cut. So are tool_calls: this server offers no tools.
var wholeReasons = []string{
	"stop", "stopped", "stopsequence", "stopbefore", "eos", "eostoken", "endtoken", "endturn", "endofturn", "endoftext",
	"complete", "completed", "finished", "done", "normal",
}

// lengthReason matches the reasons of a reply that became too long, written as
// wholeReasons are: model_length, MAX_TOKENS, token_limit, context_overflow and so on.
var lengthReason = regexp.MustCompile(`length|max\w*token|tokenlimit|context`)

// reasonKind returns the kind of a reason that reasonName returned, and "" for the
// reason of a whole reply.
func reasonKind(name string) string {
	letters := strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(name))
	switch {
	case slices.Contains(wholeReasons, letters):
		return ""
	case lengthReason.MatchString(letters):
		return "length"
	}
	return "failed"
}

// explain says why a reply is not whole, or returns nil when it is. stream is nil when
// there was none.
func (m model) explain(asked context.Context, err error, stream *chunks) error {
	var reply *openai.Error
	ended, done := "", false
	if stream != nil {
		ended, done = stream.reason, stream.done
	}
	switch kind := reasonKind(ended); {
	case errors.Is(err, errModel) || errors.Is(err, errContent):
		return &ModelError{"failed", err.Error(), nil}
	case ended == "" && done && err == nil, ended != "" && kind == "": // the connection may fail after the reason
		return nil
	case ended != "" && kind == "length":
		return &ModelError{kind, "the reply became longer than the model allows", err}
	case ended != "":
		return &ModelError{kind, "the model ended the reply: " + ended, err}
	case errors.Is(context.Cause(asked), errSilent):
		return &ModelError{"timeout", fmt.Sprintf("the model was silent for %v", m.timeout), err}
	case !errors.As(err, &reply):
		return &ModelError{"unreachable", "the model's server cannot be reached, broke off, or does not speak this interface", err}
	case reply.StatusCode == http.StatusUnauthorized || reply.StatusCode == http.StatusForbidden:
		return &ModelError{"refused", fmt.Sprintf("the model's server refused the key (%d)", reply.StatusCode), err}
	case reply.StatusCode == http.StatusTooManyRequests:
		return &ModelError{"busy", "the model's server is busy, or the quota is used up (429)", err}
	}
	return &ModelError{"failed", fmt.Sprintf("the model's server answered %d", reply.StatusCode), err}
}
