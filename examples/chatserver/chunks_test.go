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

// oneChoice returns a chunk with one choice, which has these fields.
func oneChoice(fields string) string { return data(`{"choices":[{"index":0,` + fields + `}]}`) }

func said(text string) string { return oneChoice(fmt.Sprintf(`"delta":{"content":%q}`, text)) }

func ended(reason string) string { return oneChoice(`"delta":{},"finish_reason":` + reason) }

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
		first := oneChoice(`"delta":{"content":"It "},"finish_reason":` + reason)
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

// The text of a reply comes in several forms. A form that is unknown is an error, and
// no reply with a hole.
func TestChunks_Text(t *testing.T) {
	t.Parallel()
	content := func(json string) string { return oneChoice(`"delta":{"content":` + json + `}`) }
	for _, row := range []struct{ stream, text, kind string }{
		{content(`[{"type":"text","text":"PARTS"}]`), "PARTS", ""},
		{content(`[{"type":"text","text":"a \ud83d"},{"type":"text","text":"\ude00 b"}]`), "a 😀 b", ""},
		{content(`[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]}]`) + said("yes"), "yes", ""},
		{content(`[{"type":"reasoning","text":"hm"},{"type":"output_text","text":"yes"},{"type":"reference","reference_ids":[1]}]`), "yes", ""},
		{content(`["a",{"text":"b"},{"type":"text","text":null}]`), "ab", ""},
		{content(`[]`) + content(`null`) + content(`""`) + said("x"), "x", ""},
		{oneChoice(`"delta":{"refusal":"I will not."}`), "I will not.", ""},
		{oneChoice(`"message":{"role":"assistant","content":"MESSAGE"}`), "MESSAGE", ""},
		{oneChoice(`"message":{"content":[{"type":"text","text":"MESSAGE"}]}`), "MESSAGE", ""},
		{oneChoice(`"delta":null,"message":{"content":"MESSAGE"}`), "MESSAGE", ""},
		{oneChoice(`"text":"TEXT"`) + oneChoice(`"text":" MORE"`), "TEXT MORE", ""},
		{oneChoice(`"delta":{"content":"a"},"text":"a"`), "a", ""},                                                      // Together's
		{oneChoice(`"delta":{"content":"a"},"message":{"content":"a"}`), "a", ""},                                       // Perplexity's, which has
		{oneChoice(`"delta":{"content":"a"}`) + oneChoice(`"delta":{"content":""},"message":{"content":"a"}`), "a", ""}, // the whole reply at the end
		{data(`{"choices":[{"index":0,"delta":{"content":"ONE"}},{"index":1,"delta":{"content":"TWO"}}]}`), "ONE", ""},  //
		{data(`{"choices":[{"index":1,"delta":{"content":"TWO"},"finish_reason":"length"}]}`) + said("ONE"), "ONE", ""},
		{data(`{"choices":[{"delta":{"content":"ONE"}},{"delta":{"content":"TWO"}}]}`), "ONE", ""},
		{data(`{"choices":[{"delta":{"content":"ONE"}}]}`), "ONE", ""},
		{said("a") + content(`{"type":"text","text":"secret"}`) + said("b"), "a", "failed"},
		{said("a") + content(`42`), "a", "failed"},
		{said("a") + content(`false`), "a", "failed"},
		{said("a") + content(`[{"type":"image_url","image_url":"secret"}]`), "a", "failed"},
		{said("a") + content(`[{"type":"text","text":{"value":"secret"}}]`), "a", "failed"},
		{said("a") + content(`[["secret"]]`), "a", "failed"},
		{said("a") + content(`[null]`), "a", "failed"},
		{said("a") + oneChoice(`"text":{"value":"secret"}`), "a", "failed"},
		{said("a") + oneChoice(`"message":{"content":42}`), "a", "failed"},
	} {
		for _, end := range []string{ended(`"stop"`), ""} {
			text, kind, message := streamed(t, row.stream+end+doneLine)
			if text != row.text || kind != row.kind || strings.Contains(message, "secret") {
				t.Errorf("%q%q: got %q %q %q, want %q %q", row.stream, end, text, kind, message, row.text, row.kind)
			}
		}
	}
}

// An error during a reply ends the reply, in each form that servers give it, also when the
// server sends more after it.
func TestChunks_Errors(t *testing.T) {
	t.Parallel()
	for stream, want := range map[string]string{
		data(`{"object":"error","message":"secret","type":"ServerError","code":500}`): "failed",
		"event: error\n" + data(`{"message":"secret"}`):                               "failed",
		"event:error\n" + data(`"secret"`):                                            "failed",
		"event: stream_error\r\n\r\n":                                                 "failed",
		"event: message\n" + data(`{"choices":[]}`):                                   "",
		data(`{"type":"error","message":"secret"}`):                                   "failed",
		data(`{"message":"secret","code":500}`):                                       "failed",
		data(`{"detail":"secret"}`):                                                   "failed",
		data(`{"error":"secret"}`):                                                    "failed",
		data(`{"error":{"message":"secret"}}`):                                        "failed",
		data(`{"error":true}`):                                                        "failed",
		data(`{"error":"","choices":[]}`):                                             "",
		data(`{"error":{},"choices":[]}`):                                             "",
		data(`{"error":false,"choices":[]}`):                                          "",
		data(`{"error":null,"choices":[]}`):                                           "",
		data(`{"object":"chat.completion.chunk","usage":{"total_tokens":7}}`):         "",
		data(`{"type":"ping"}`):                                                       "",
		data(`{"error":{"message":"secret"},"choices":[{"delta":{"content":""},"finish_reason":""}]}`): "failed",
	} {
		for _, end := range []string{doneLine, said("x") + doneLine, ended(`"stop"`) + doneLine} {
			text, kind, message := streamed(t, said("It is.")+stream+end)
			if kind != want || strings.Contains(message, "secret") || want != "" && text != "It is." {
				t.Errorf("%q%q: got %q %q %q, want the kind %q", stream, end, text, kind, message, want)
			}
		}
		if _, kind, _ := streamed(t, said("It is.")+ended(`"stop"`)+stream+doneLine); kind != want {
			t.Errorf("stop, and %q: got %q, want %q", stream, kind, want)
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
