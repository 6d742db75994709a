package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// streamed asks a model whose server answers with a stream, and returns the text of the
// reply and the kind and the message of its error.
func streamed(t *testing.T, stream string) (text, kind, message string) {
	t.Helper()
	url := modelServer(t, func(w http.ResponseWriter, _ *http.Request, _ string) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, stream)
	})
	for piece, err := range newModel(url, "secret", "small", time.Minute).Respond(t.Context(), []Message{{Role: "user", Content: "?"}}) {
		text += piece
		if err != nil {
			var e *ModelError
			if !errors.As(err, &e) {
				t.Fatalf("%v is no ModelError", err)
			}
			kind, message = e.Kind, e.Error()
		}
	}
	return text, kind, message
}

const doneLine = "data: [DONE]\n\n"

// data returns a chunk of a stream.
func data(chunk string) string { return "data: " + chunk + "\n\n" }

// choice returns a chunk with one choice, which has these fields.
func choice(fields string) string { return data(`{"choices":[{"index":0,` + fields + `}]}`) }

func said(text string) string { return choice(fmt.Sprintf(`"delta":{"content":%q}`, text)) }

func ended(reason string) string { return choice(`"delta":{},"finish_reason":` + reason) }

// A reason that is not known to end a whole reply ends one that was cut.
func TestChunks_Reasons(t *testing.T) {
	t.Parallel()
	for kind, reasons := range map[string]string{
		"": `"stop" "STOP" "Stop" "eos" "EOS_TOKEN" "end_turn" "END-TURN" "endTurn" "stop_sequence" "COMPLETE" "completed" "end_of_text" {"type":"stop"} {"reason":"endoftext"}`,
		"length": `"length" "max_tokens" "MAX_TOKENS" "MAX_OUTPUT_TOKENS" "max_new_tokens" "token_limit" "model_length" "model_context_window_exceeded"
			"context_overflow" {"type":"length"} {"reason":"length"}`,
		"failed": `"guardrail_intervened" "blocked" "LANGUAGE" "OTHER" "not_finished" "incomplete" "time_limit" "ERROR_LIMIT" "content_filter" "refusal" "tool_calls"
			"unstoppable" "nonstop" "stop_failed" "not_complete" {"type":"blocked"} {"code":1} ["stop"] 1 true "--"`,
	} {
		for reason := range strings.FieldsSeq(reasons) {
			text, got, message := streamed(t, said("It is.")+ended(reason)+doneLine)
			if text != "It is." || got != kind {
				t.Errorf("%s: got %q %q, want %q", reason, text, got, kind)
			}
			if strings.Contains(message, "<nil>") {
				t.Errorf("%s: %s", reason, message)
			}
		}
	}
}

// The error names the reason, however long it is, in a line of its own.
func TestChunks_ReasonsName(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		`"guardrail_intervened"`:                     "guardrail_intervened",
		`"a\nb\u0000c\u001b[31m\u202e<b>"`:           "abc31mb",
		`"` + strings.Repeat("x", 41) + `"`:          strings.Repeat("x", 40),
		`"` + strings.Repeat("\u200b", 50) + `late"`: "late",
		`7`: "unknown",
	} {
		if _, _, message := streamed(t, ended(reason)+doneLine); message != "the model ended the reply: "+want {
			t.Errorf("%s: %q, want %q at its end", reason, message, want)
		}
	}
}

// A reason that says nothing is none: a stream without another one and without [DONE]
// broke off.
func TestChunks_NoReason(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{`"null"`, `"none"`, `"None"`, `"NULL"`, `""`, `" "`, `null`, `false`, `{}`, `[]`, `0`} {
		first := choice(`"delta":{"content":"It "},"finish_reason":` + reason)
		if text, kind, _ := streamed(t, first+said("is")); text != "It is" || kind != "unreachable" {
			t.Errorf("%s, and it broke off: %q %q", reason, text, kind)
		}
		if text, kind, _ := streamed(t, first+said("is.")+doneLine); text != "It is." || kind != "" {
			t.Errorf("%s, and [DONE]: %q %q", reason, text, kind)
		}
		if _, kind, _ := streamed(t, first+ended(`"length"`)+ended(reason)+doneLine); kind != "length" {
			t.Errorf("%s after length: %q", reason, kind)
		}
	}
}

// The log says why a reply was cut.
func TestChunks_ReasonIsLogged(t *testing.T) {
	t.Parallel()
	env := modelEnv(modelServer(t, func(w http.ResponseWriter, _ *http.Request, _ string) {
		w.Header().Set("Content-Type", "text/event-stream")
		piece(w, "It is")
		finish(w, "guardrail_intervened")
	}))
	s := startChatserver(t, env)
	c := &client{t: t, url: s.url}
	room := c.room()
	c.say(room, "?")
	_, events := c.stream(t.Context(), room)
	last := ""
	for last = range events {
	}
	s.stop()
	if last != "error" || !strings.Contains(s.log.String(), "the model ended the reply: guardrail_intervened") {
		t.Errorf("ended with %q, and the log is\n%s", last, s.log.String())
	}
}
