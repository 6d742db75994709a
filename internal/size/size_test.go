package size

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

type sizedMessage struct {
	ID        string         `json:"id"`
	ChatID    string         `json:"chat_id"`
	Role      string         `json:"role"`
	Content   string         `json:"content"`
	CreatedAt time.Time      `json:"created_at"`
	Reply     *string        `json:"reply,omitempty"`
	Tags      []string       `json:"tags,omitempty"`
	Meta      map[string]any `json:"meta,omitempty"`
}

// history is n messages, the times so many seconds away from UTC.
func history(n, zone int) string {
	at := time.FixedZone("", zone)
	var all []sizedMessage
	for i := range n {
		m := sizedMessage{ID: fmt.Sprintf("message-%08d", i), ChatID: "a chat room", Role: "assistant",
			Content: strings.Repeat("lorem ", 5+i%30), CreatedAt: time.Date(2026, 1, 2, 3, 4, i%60, 0, at)}
		if i%3 == 0 {
			m.Reply, m.Tags = new(fmt.Sprint("message-", i-1)), []string{"first", fmt.Sprint("tag", i)}
			m.Meta = map[string]any{"model": fmt.Sprint("model ", i), "tokens": i, "stop": true}
		}
		all = append(all, m)
	}
	data, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// list is a JSON array of n elements.
func list(n int, format string) string {
	var all []string
	for i := range n {
		if strings.Contains(format, "%") {
			all = append(all, fmt.Sprintf(format, i))
		} else {
			all = append(all, format)
		}
	}
	return "[" + strings.Join(all, ",") + "]"
}

// object is a JSON object of n members.
func object(n int, format string) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"key%d":`+format, i, i))
	}
	return "{" + strings.Join(all, ",") + "}"
}

type sparse struct {
	A, B, C, D, E string
	F, G, H       *int
	I             []sparse
	J             map[string]string
}

type tree struct {
	Name string
	Kids []*tree
	By   map[string]tree `json:",omitempty"`
}

// hides has a method that decodes it to unexported fields.
type hides struct {
	members map[string]string
	order   []string
}

func (h *hides) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &h.members); err != nil {
		return err
	}
	for key := range h.members {
		h.order = append(h.order, key)
	}
	return nil
}

type ring struct {
	Name string
	Next *ring
}

type decodedShape struct {
	name   string
	data   string
	sizeIn func(t *testing.T, shape decodedShape) (estimate, real int)
}

func decodesTo[T any](name, data string) decodedShape {
	return decodedShape{name, data, func(t *testing.T, shape decodedShape) (estimate, real int) {
		const copies = 40
		kept := make([]*T, copies)
		before := heapNow()
		for i := range kept {
			kept[i] = new(T)
			if err := jsonvalue.Decode([]byte(shape.data), kept[i]); err != nil {
				t.Fatal(err)
			}
		}
		real = (heapNow() - before) / copies
		estimate = Of(kept[0], []byte(shape.data), true, 1<<40)
		runtime.KeepAlive(kept)
		return estimate, real
	}}
}

// heapNow is how much of the heap is in use.
func heapNow() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// Not parallel, as it measures the heap.
func TestSize_IsRightWithinAFactorOfTwo(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, shape := range []decodedShape{
		decodesTo[[]sizedMessage]("a history", history(50, 0)),
		decodesTo[[]sizedMessage]("a history with half hours", history(50, 19800)),
		decodesTo[[]*sizedMessage]("a history of pointers", history(50, 0)),
		decodesTo[any]("a history as any", history(50, 0)),
		decodesTo[[]map[string]any]("a history as maps", history(50, 0)),
		decodesTo[[]json.RawMessage]("a history as raw messages", history(50, 0)),
		decodesTo[[]sparse]("sparse structs", list(1000, "{}")),
		decodesTo[[]*sparse]("pointers to sparse structs", list(1000, "{}")),
		decodesTo[[]int64]("integers", list(1000, "%d")),
		decodesTo[[]float64]("floats", list(1000, "%d.5")),
		decodesTo[[]bool]("bools", list(1000, "true")),
		decodesTo[[]any]("numbers as any", list(1000, "%d.5")),
		decodesTo[[][]int]("empty slices", list(1000, "[]")),
		decodesTo[[][]int]("short slices", list(1000, "[%d]")),
		decodesTo[[]map[string]int]("small maps", list(1000, `{"a":%d}`)),
		decodesTo[[]map[string]int]("empty maps", list(1000, `{}`)),
		decodesTo[[]any]("empty objects as any", list(1000, `{}`)),
		decodesTo[[]*int]("pointers to integers", list(1000, "%d")),
		decodesTo[[]string]("short strings", list(1000, `"s%d"`)),
		decodesTo[[]string]("long strings", list(100, `"%d`+long+`"`)),
		decodesTo[[]any]("strings as any", list(1000, `"string %d"`)),
		decodesTo[string]("one string", `"`+strings.Repeat("x", 10000)+`"`),
		decodesTo[[]byte]("base64", `"`+strings.Repeat("QUJD", 2000)+`"`),
		decodesTo[map[string]int]("a map of 15", object(15, "%d")),
		decodesTo[map[string]int]("a map of 100", object(100, "%d")),
		decodesTo[map[string]int]("a map of 5000", object(5000, "%d")),
		decodesTo[map[string]any]("a map of any", object(100, `{"a":%d}`)),
		decodesTo[map[string][300]byte]("a map of arrays", object(100, "[%d]")),
		decodesTo[map[string]*sparse]("a map of pointers", object(100, `{"A":"%d"}`)),
		decodesTo[map[string]map[string]string]("a map of maps", object(100, `{"A":"%d"}`)),
		decodesTo[tree]("a tree", `{"Name":"root","Kids":`+list(100, `{"Name":"kid %d","Kids":[{"Name":"leaf"}],"By":{"x":{"Name":"y"}}}`)+`}`),
		decodesTo[[]*big.Int]("big integers", list(1000, "10000000000000000000000%d")),
		decodesTo[[]*big.Float]("big floats", list(1000, `"%d.5"`)),
		decodesTo[[]sql.NullString]("null strings", list(1000, `{"String":"string %d","Valid":true}`)),
		decodesTo[[]any]("values of an interface", list(1000, `[[%d.5]]`)),
		decodesTo[[]hides]("what hides in its type", list(100, `{"a%d":"some value","b":"another"}`)),
		decodesTo[hides]("all that hides in its type", object(300, `"some value %d"`)),
	} {
		t.Run(shape.name, func(t *testing.T) {
			estimate, real := shape.sizeIn(t, shape)
			t.Logf("%d bytes of JSON are %d, estimated as %d (%.2f)", len(shape.data), real, estimate, float64(estimate)/float64(real))
			if estimate > 2*real+64 || real > 2*estimate+64 {
				t.Errorf("%d bytes of JSON are %d, estimated as %d", len(shape.data), real, estimate)
			}
		})
	}
}

// A Codec of the user's may make what JSON cannot: values that refer to themselves,
// the same memory twice, and any depth.
func TestSize_ValuesThatReferToThemselves(t *testing.T) {
	t.Parallel()
	size := func(value any, room int) int { return Of(&value, nil, false, room) }

	r := &ring{Name: "one"}
	r.Next = &ring{Name: "two", Next: r}
	if n := size(r, 1<<20); n < 48 || n > 200 {
		t.Errorf("a ring of two: %d", n)
	}
	var self []any
	self = append(self, &self, self)
	self[1] = self
	if n := size(self, 1<<20); n < 32 || n > 300 {
		t.Errorf("a slice of itself: %d", n)
	}
	m := map[string]any{}
	m["self"] = m
	if n := size(m, 1<<20); n < 100 || n > 600 {
		t.Errorf("a map of itself: %d", n)
	}
	page := strings.Repeat("x", 1000)
	shared := &struct{ Page []byte }{[]byte(page)}
	if n := size([]any{shared, shared, shared, shared}, 1<<20); n < 1000 || n > 2000 {
		t.Errorf("the same page four times: %d", n)
	}
	var long *ring
	for range 1_000_000 {
		long = &ring{Next: long}
	}
	if n := size(long, 1<<30); n <= 1<<30 {
		t.Errorf("a list that is deeper than can be followed: %d", n)
	}
}

// The estimate ends where the value turns out to be too large.
func TestSize_EndsWithTheRoom(t *testing.T) {
	t.Parallel()
	followed := 0
	w := sizing{room: 1000}
	each := make([]byte, 1<<20)
	w.each(unsafe.Pointer(&each[0]), len(each), 1, func(w *sizing, _ unsafe.Pointer) { followed++; w.add(100) })
	if followed > 10 {
		t.Errorf("%d of %d elements were followed, which are larger than %d bytes", followed, len(each), w.room)
	}
}

// BenchmarkSize is the estimate's share of the first hit on a value: the rest is to
// decode it.
func BenchmarkSize(b *testing.B) {
	data := []byte(history(50, 0))
	var value []sizedMessage
	if err := jsonvalue.Decode(data, &value); err != nil {
		b.Fatal(err)
	}
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			if err := jsonvalue.Decode(data, new([]sizedMessage)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("size", func(b *testing.B) {
		for b.Loop() {
			Of(&value, data, true, 1<<30)
		}
	})
}
