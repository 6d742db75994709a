//lint:file-ignore SA5008 odd tags are what it is about

package aside_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/cacheaside/aside"
)

type (
	// onlyV2 has the methods of json/v2, which encoding/json does not know.
	onlyV2 struct{ text string }
	// bothV2 has encoding/json's methods, too.
	bothV2 struct{ text string }
	// byText and byJSON encode and decode themselves, by the methods of a pointer.
	byText struct{ text string }
	byJSON struct{ text string }
	// namesRole has a text of its own for each number.
	namesRole int
	// speaks is an interface that nothing is decoded to.
	speaks interface{ Speak() }
	odd    float64
	small  string
	inner  struct {
		Inner string `json:"inner"`
		A     int
	}
	Outer struct {
		Outer string `json:"Inner"`
		B     []int
	}
	flat struct {
		inner
		*Outer
		C string
	}
	hiddenPointer struct {
		*inner
		D int
	}
	namedEmbedded struct {
		Outer `json:"outer"`
		inner `json:"in"`
	}
	embedded struct {
		Outer `json:",embed"`
		Rest  map[string]any `json:",embed"`
		E     string         `json:"e,omitempty"`
	}
	strict struct {
		F string `json:"eff,case:strict"`
		G int64  `json:",format:hex"`
		H string `json:"aitch,case:ignore"`
	}
	folded struct {
		One string `json:"name"`
		Two string `json:"NAME"`
		inner
		Three int `json:"INNER"`
	}
	quoted struct {
		I int64   `json:",string"`
		J *bool   `json:"j,string"`
		K string  `json:"k,string"`
		L float64 `json:"l,string,omitempty"`
	}
	tags struct {
		M int     `json:"-,"`
		N int     `json:"n,"`
		O int     `json:"o,omitempty,omitempty"`
		P int     `json:"p'q"`
		Q int     `json:"'r'"`
		R int     `json:"s t,required"`
		S int     `json:"-"`
		T *string `json:"t,omitzero"`
	}
	node struct {
		Value any              `json:"value"`
		Next  *node            `json:"next"`
		Many  []node           `json:"many"`
		By    map[string]*node `json:"by"`
	}
)

func (v onlyV2) MarshalJSONTo(e *jsontext.Encoder) error {
	return e.WriteToken(jsontext.String(v.text))
}

func (v *onlyV2) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	t, err := d.ReadToken()
	v.text = t.String()
	return err
}

func (v bothV2) MarshalJSONTo(e *jsontext.Encoder) error { return onlyV2(v).MarshalJSONTo(e) }
func (v *bothV2) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	return (*onlyV2)(v).UnmarshalJSONFrom(d)
}
func (v bothV2) MarshalJSON() ([]byte, error)     { return json.Marshal(v.text) }
func (v *bothV2) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &v.text) }

func (v *byText) MarshalText() ([]byte, error) { return []byte(v.text), nil }
func (v *byText) UnmarshalText(text []byte) error {
	v.text = string(text)
	return nil
}

func (v *byJSON) MarshalJSON() ([]byte, error)    { return json.Marshal(v.text) }
func (v *byJSON) UnmarshalJSON(data []byte) error { v.text = string(data); return nil }

func (r namesRole) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "role %d", int(r)), nil }
func (r *namesRole) UnmarshalText(text []byte) error {
	_, err := fmt.Sscanf(string(text), "role %d", (*int)(r))
	return err
}

func (s *small) UnmarshalText(text []byte) error {
	if len(text) > 3 {
		return errors.New("want at most 3 bytes")
	}
	*s = small(text)
	return nil
}

var leafTypes = []reflect.Type{
	reflect.TypeFor[bool](), reflect.TypeFor[int](), reflect.TypeFor[int8](), reflect.TypeFor[int64](), reflect.TypeFor[uint16](), reflect.TypeFor[uint64](),
	reflect.TypeFor[uintptr](), reflect.TypeFor[float32](), reflect.TypeFor[float64](), reflect.TypeFor[string](), reflect.TypeFor[[]byte](), reflect.TypeFor[[3]byte](),
	reflect.TypeFor[any](), reflect.TypeFor[speaks](), reflect.TypeFor[error](), reflect.TypeFor[time.Time](), reflect.TypeFor[time.Duration](),
	reflect.TypeFor[json.RawMessage](), reflect.TypeFor[json.Number](), reflect.TypeFor[big.Int](), reflect.TypeFor[*big.Float](), reflect.TypeFor[netip.Addr](),
	reflect.TypeFor[onlyV2](), reflect.TypeFor[bothV2](), reflect.TypeFor[byText](), reflect.TypeFor[byJSON](), reflect.TypeFor[namesRole](), reflect.TypeFor[odd](),
	reflect.TypeFor[small](), reflect.TypeFor[flat](), reflect.TypeFor[hiddenPointer](), reflect.TypeFor[namedEmbedded](),
	reflect.TypeFor[embedded](), reflect.TypeFor[strict](), reflect.TypeFor[folded](), reflect.TypeFor[quoted](), reflect.TypeFor[tags](), reflect.TypeFor[node](),
	reflect.TypeFor[message](), reflect.TypeFor[struct{}](), reflect.TypeFor[complex64](), reflect.TypeFor[func()](), reflect.TypeFor[struct{ hidden int }](),
	reflect.StructOf([]reflect.StructField{{Name: "u", PkgPath: "x", Type: reflect.TypeFor[int](), Tag: `json:"u"`}}),
}

var keyTypes = []reflect.Type{
	reflect.TypeFor[string](), reflect.TypeFor[string](), reflect.TypeFor[int](), reflect.TypeFor[uint8](), reflect.TypeFor[float64](), reflect.TypeFor[bool](),
	reflect.TypeFor[small](), reflect.TypeFor[namesRole](), reflect.TypeFor[byText](), reflect.TypeFor[json.Number](),
	reflect.TypeFor[any](), reflect.TypeFor[onlyV2](), reflect.TypeFor[byJSON](), reflect.TypeFor[netip.Addr](), reflect.TypeFor[odd](),
}

var fieldTags = []string{
	"", "", "", `json:"%s"`, `json:"%s,omitempty"`, `json:"%s,omitzero"`, `json:"%s,string"`, `json:",string"`, `json:"-"`, `json:"-,"`,
	`json:"%s,embed"`, `json:",embed"`, `json:",inline"`, `json:",unknown"`, `json:"%s,case:ignore"`, `json:"%s,case:strict"`, `json:",format:RFC3339"`,
	`json:"%s,format:base64"`, `json:"%s,OmitEmpty"`, `json:"%s,required"`, `json:"%s,"`, `json:"'%s'"`, `json:"%s x"`, `json:"%s\\\\"`, `json:"ſ%s"`,
}

// made is a type at random: r decides.
func made(r *rand.Rand, depth int) reflect.Type {
	if depth == 0 || r.IntN(3) == 0 {
		return leafTypes[r.IntN(len(leafTypes))]
	}
	switch r.IntN(6) {
	case 0:
		return reflect.PointerTo(made(r, depth-1))
	case 1:
		return reflect.SliceOf(made(r, depth-1))
	case 2:
		return reflect.ArrayOf(r.IntN(3), made(r, depth-1))
	case 3:
		key := keyTypes[r.IntN(len(keyTypes))]
		return reflect.MapOf(key, made(r, depth-1))
	}
	var fields []reflect.StructField
	for i := range r.IntN(5) {
		name := string(rune('A'+i)) + []string{"", "k", "_s"}[r.IntN(3)]
		tag := fieldTags[r.IntN(len(fieldTags))]
		if strings.Contains(tag, "%s") {
			tag = fmt.Sprintf(tag, []string{"ak", "AK", "b-k", "b_k", "키", "c", "<", "é"}[r.IntN(8)])
		}
		fields = append(fields, reflect.StructField{Name: name, Type: made(r, depth-1), Tag: reflect.StructTag(tag)})
	}
	return reflect.StructOf(fields)
}

var oddJSON = []string{
	`null`, `true`, `0`, `-0`, `1`, `300`, `-1`, `1.0`, `1e3`, `1.5`, `9007199254740993`, `9223372036854775808`, `1e400`, `0.1e-400`, `01`, `+1`, `NaN`, `Infinity`, `1.`,
	`""`, `"a"`, `"null"`, `"true"`, `"7"`, `" 7"`, `"7 "`, `"-0"`, `"1e2"`, `"AQID"`, `"AQI="`, `"AQI"`, "\"AQ\\nI=\"", `"AQ-_"`, `"role 3"`, `"::1"`, `"2026-01-02T03:04:05Z"`,
	`"2026-01-02T03:04:05.123456789+09:00"`, `"2026-01-02T3:04:05Z"`, `"2026-01-02T03:04:05,5Z"`, `"2026-01-02 03:04:05"`, `"2026-01-02T03:04:05+24:00"`, `"1s"`, `"\"quoted\""`, `"\ud800"`, `"\ud83d\ude00"`,
	`"\u0000\u2028<"`, "\"\xff\"", "\"\xed\xa0\x80\"", "\"\t\"", `"\x"`, `[]`, `[null]`, `[1,2,3]`, `[1,"a",{}]`, `[[1],[2]]`, `{}`, `{"a":1}`, `{"a":1,"a":2}`, `{"null":1}`, `{"1":null}`, `{"+1":1}`,
	`{"1.5":1}`, `{"true":1}`, `{"role 3":1,"role 03":2}`, `{"2026-01-02T03:04:05Z":1}`, `{"long key":"v"}`, `{"":0}`, "{\"\xff\":1}", `[1,]`, `{"a"}`, `nul`, `{"inner":"x","Inner":"y","INNER":1}`, ``, ` `,
}

// jsonFor is JSON at random that resembles what a t has.
func jsonFor(r *rand.Rand, t reflect.Type, depth int) string {
	if depth == 0 || r.IntN(4) == 0 {
		return oddJSON[r.IntN(len(oddJSON))]
	}
	list := func(open, shut string, one func() string) string {
		var parts []string
		for range r.IntN(4) {
			parts = append(parts, one())
		}
		return open + strings.Join(parts, []string{",", ", ", "\n,\t"}[r.IntN(3)]) + shut
	}
	switch t.Kind() {
	case reflect.Pointer:
		return jsonFor(r, t.Elem(), depth-1)
	case reflect.Slice, reflect.Array:
		return list("[", "]", func() string { return jsonFor(r, t.Elem(), depth-1) })
	case reflect.Map:
		return list("{", "}", func() string { return oddName(r) + ":" + jsonFor(r, t.Elem(), depth-1) })
	case reflect.Struct:
		if t.NumField() == 0 {
			break
		}
		return list("{", "}", func() string {
			fields := reflect.VisibleFields(t)
			f := fields[r.IntN(len(fields))]
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || r.IntN(8) == 0 {
				name = f.Name
			}
			switch r.IntN(8) {
			case 0:
				name = strings.ToUpper(name)
			case 1:
				name = strings.ToLower(name)
			case 2:
				name = strings.NewReplacer("k", "\u212a", "s", "ſ", "_", "", "-", "_").Replace(name)
			case 3:
				return oddName(r) + ":" + jsonFor(r, t, depth-1)
			}
			text, _ := json.Marshal(name)
			return string(text) + ":" + jsonFor(r, f.Type, depth-1)
		})
	case reflect.Int, reflect.Int8, reflect.Int64, reflect.Uint8, reflect.Uint16, reflect.Uint64, reflect.Float64:
		return fmt.Sprint(r.IntN(300) - 20)
	case reflect.String:
		return `"text"`
	}
	return oddJSON[r.IntN(len(oddJSON))]
}

func oddName(r *rand.Rand) string {
	for {
		if text := oddJSON[r.IntN(len(oddJSON))]; strings.HasPrefix(text, `"`) {
			return text
		} else if strings.HasPrefix(text, `{"`) {
			return text[1:2+strings.Index(text[2:], `"`)+0] + `"`
		}
	}
}

// reads checks that a t is decoded from data as encoding/json decodes it, but that
// data must be UTF-8.
func reads(t *testing.T, typ reflect.Type, data []byte) {
	t.Helper()
	got, want := reflect.New(typ), reflect.New(typ)
	gotErr, wantErr := aside.JSON.Decode(data, got.Interface()), json.Unmarshal(data, want.Interface())
	if !utf8.Valid(data) {
		if gotErr == nil {
			t.Errorf("%q: decoded as a %v, and is not UTF-8", data, typ)
		}
		return
	}
	if (gotErr == nil) != (wantErr == nil) {
		t.Errorf("%s as a %v: error %v, encoding/json's is %v", data, typ, gotErr, wantErr)
	} else if wantErr == nil && !reflect.DeepEqual(got.Interface(), want.Interface()) {
		t.Errorf("%s as a %v:\n got %#v\nwant %#v", data, typ, got.Elem(), want.Elem())
	}
}

// One format has one meaning, for any type and bytes.
func TestJSONHasOneMeaning(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3_000) {
		r := rand.New(rand.NewPCG(seed, 12))
		typ := made(r, 3)
		for range 10 {
			reads(t, typ, []byte(jsonFor(r, typ, 4)+[]string{"", "", "", " ", "{}", "\n1", "\x00"}[r.IntN(7)]))
		}
		if t.Failed() {
			t.Fatalf("with the seed %d", seed)
		}
	}
	for _, typ := range leafTypes {
		for _, text := range oddJSON {
			reads(t, typ, []byte(text))
			reads(t, reflect.PointerTo(typ), []byte(text))
			reads(t, reflect.SliceOf(typ), []byte("["+text+",\n"+text+"]"))
			reads(t, reflect.MapOf(reflect.TypeFor[string](), typ), []byte(`{"a":`+text+`,"b":null,"a":`+text+`}`))
			for _, key := range keyTypes {
				if typ.Kind() == reflect.Int {
					reads(t, reflect.MapOf(key, typ), []byte(text))
				}
			}
		}
	}
}

func FuzzJSONHasOneMeaning(f *testing.F) {
	for i, text := range oddJSON {
		f.Add(uint64(i), []byte(text))
	}
	f.Add(uint64(7), []byte(strings.Repeat("[", 10_001)+strings.Repeat("]", 10_001)))
	f.Fuzz(func(t *testing.T, seed uint64, data []byte) {
		r := rand.New(rand.NewPCG(seed, 12))
		typ := made(r, 3)
		reads(t, typ, data)
		reads(t, typ, []byte(jsonFor(r, typ, 4)))
	})
}

// BenchmarkJSON is of a history of 50 messages, of some 10 KB, beside encoding/json.
func BenchmarkJSON(b *testing.B) {
	type row struct {
		ID        int64     `json:"message_id"`
		Role      string    `json:"role"`
		Content   string    `json:"content"`
		CreatedAt time.Time `json:"created_at"`
	}
	type rowWithMeta struct {
		row
		Meta map[string]any `json:"meta"`
	}
	type rowToCheck struct {
		row
		Raw *json.RawMessage `json:"raw"`
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	bench := func(name string, value, ptr any) {
		data := must(json.Marshal(value))
		b.Run(fmt.Sprintf("%s %d bytes", name, len(data)), func(b *testing.B) {
			for name, do := range map[string]func() error{
				"encode/aside":         func() error { _, err := aside.JSON.Encode(value); return err },
				"encode/encoding-json": func() error { _, err := json.Marshal(value); return err },
				"decode/aside":         func() error { return aside.JSON.Decode(data, reflect.New(reflect.TypeOf(ptr).Elem()).Interface()) },
				"decode/encoding-json": func() error { return json.Unmarshal(data, reflect.New(reflect.TypeOf(ptr).Elem()).Interface()) },
			} {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						must(0, do())
					}
				})
			}
		})
	}
	for language, content := range map[string]string{"ascii": strings.Repeat("hello ", 20), "korean": strings.Repeat("안녕 ", 17)} {
		var plain []row
		var meta []rowWithMeta
		var check []rowToCheck
		for i := range int64(50) {
			r := row{i, "user", content, at}
			plain = append(plain, r)
			meta = append(meta, rowWithMeta{r, map[string]any{"model": "m", "tokens": 17.0}})
			check = append(check, rowToCheck{r, nil})
		}
		bench(language, plain, &plain)
		bench(language+" with any", meta, &meta)
		bench(language+" checked", check, &check)
	}
}
