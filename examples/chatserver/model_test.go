package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// The reasons that vendors give for the end of a whole reply, and for that of one that
// was cut, are told apart; a stream that ends with [DONE] is whole without one.
func TestModel_Reasons(t *testing.T) {
	t.Parallel()
	done := "data: [DONE]\n\n"
	reason := func(text string) string {
		return fmt.Sprintf(`data: {"choices":[{"index":0,"delta":{},"finish_reason":%q}]}`+"\n\n", text)
	}
	for _, row := range []struct{ end, last, kind string }{
		{reason("stop") + done, "done", ""},
		{reason("eos") + done, "done", ""},
		{reason("eos_token") + done, "done", ""},
		{reason("end_turn") + done, "done", ""},
		{reason("stop_sequence") + done, "done", ""},
		{reason("STOP") + done, "done", ""},
		{reason("COMPLETE") + done, "done", ""},
		{done, "done", ""},
		{"data:[DONE]", "done", ""},
		{reason("") + done, "done", ""},
		{reason("stop"), "done", ""},
		{reason("end_turn"), "done", ""},
		{`data: {"error":null,"choices":[]}` + "\n\n" + done, "done", ""},
		{reason("length") + done, "error", "length"},
		{reason("max_tokens") + done, "error", "length"},
		{reason("MAX_TOKENS") + done, "error", "length"},
		{reason("model_length") + done, "error", "length"},
		{reason("content_filter") + done, "error", "failed"},
		{reason("SAFETY") + done, "error", "failed"},
		{reason("refusal") + done, "error", "failed"},
		{reason("insufficient_system_resource") + done, "error", "failed"},
		{`data: {"error":{"message":"no secret of the server's"}}` + "\n\n" + done, "error", "failed"},
		{"", "error", "unreachable"},
	} {
		t.Run(row.end, func(t *testing.T) {
			t.Parallel()
			c := serverOn(t, modelEnv(modelServer(t, func(w http.ResponseWriter, _ *http.Request, _ string) {
				w.Header().Set("Content-Type", "text/event-stream")
				piece(w, "It is.")
				fmt.Fprint(w, row.end)
			})))
			room := c.room()
			c.say(room, "what is it?")
			_, events := c.stream(t.Context(), room)
			var last, data string
			for last, data = range events {
			}
			var got broken
			_ = json.Unmarshal([]byte(data), &got)
			if last != row.last || got.Kind != row.kind || strings.Contains(data, "secret") {
				t.Errorf("got %s %s, want %s %s", last, data, row.last, row.kind)
			}
			if got := c.history(room, ""); len(got) != 2 || got[1].Content != "It is." {
				t.Errorf("the history is %+v", got)
			}
		})
	}
}

// A character whose halves come in two pieces is one in the reply.
func TestModel_HalvesOfACharacter(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		pieces []string // JSON
		want   string
	}{
		{[]string{`"a \ud83d"`, `"\ude00 b"`}, "a 😀 b"},
		{[]string{`"\ud83d"`, `""`, `"\ude00"`, `null`}, "😀"},
		{[]string{`"\ud83d\ude00\ud83d"`, `"\ude01"`}, "😀😁"},
		{[]string{"\"a \xf0\x9f\"", "\"\x98\x80 b\""}, "a 😀 b"},
		{[]string{"\"\xea\"", "\"\xb0\"", "\"\x80\""}, "가"},
		{[]string{`"\\ud83d"`, `"\\ude00"`}, `\ud83d\ude00`},
		{[]string{`"a\\"`, `"\ud83d"`, `"\ude00"`}, `a\😀`},
		{[]string{`"\ud83d"`, `"x"`}, "\ufffdx"},
		{[]string{`"x\ud83d"`}, "x\ufffd"},
		{[]string{`"\ude00"`, `"\ud83d"`, `"\ude00"`}, "\ufffd😀"},
	} {
		c := serverOn(t, modelEnv(modelServer(t, func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Content-Type", "text/event-stream")
			for _, p := range row.pieces {
				fmt.Fprintf(w, `data: {"choices":[{"index":0,"delta":{"content":%s}}]}`+"\n\n", p)
			}
			finish(w, "stop")
		})))
		room := c.room()
		c.say(room, "?")
		_, events := c.stream(t.Context(), room)
		var told strings.Builder
		for name, data := range events {
			var in struct{ Content string }
			if _ = json.Unmarshal([]byte(data), &in); name == "token" {
				told.WriteString(in.Content)
			}
		}
		if got := c.history(room, ""); len(got) != 2 || got[1].Content != row.want || told.String() != row.want {
			t.Errorf("%q: got %+v, told %q, want %q", row.pieces, got, told.String(), row.want)
		}
	}
}
