package jsonvalue_test

import (
	"encoding/json"
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

type (
	stamped struct {
		At   time.Time
		Then *time.Time
		By   map[string][]time.Time
	}
	// ownTime has methods that know of its time alone, as those of packages for null.
	ownTime struct {
		Time  time.Time
		Valid bool
	}
	// snowflake is a number in Go and a text in JSON.
	snowflake int64
	wide      struct {
		ID     int64
		Quoted int64 `json:",string"`
		F      float64
	}
)

func (o ownTime) MarshalJSON() ([]byte, error)     { return json.Marshal(o.Time) }
func (o *ownTime) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &o.Time) }
func (s snowflake) MarshalText() ([]byte, error)   { return []byte("id"), nil }
func (s *snowflake) UnmarshalText(_ []byte) error  { return nil }

func encodes(t *testing.T, name string, value any, want bool) {
	t.Helper()
	if data, err := jsonvalue.Encode(value); (err == nil) != want {
		t.Errorf("%s: got %s, %v; want it encoded: %v", name, data, err, want)
	}
}

// RFC 3339 has no seconds in the offset of a zone.
func TestEncode_Times(t *testing.T) {
	t.Parallel()
	lmt := time.FixedZone("LMT", 8*3600+27*60+52)
	seoul := time.FixedZone("KST", 9*3600)
	odd, zero := time.Date(1900, 1, 1, 0, 0, 0, 0, lmt), time.Time{}.In(time.FixedZone("x", -20))
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, seoul)
	for name, value := range map[string]any{
		"time": odd, "zero": zero, "field": stamped{At: odd}, "pointer": stamped{Then: &odd}, "in a map": stamped{By: map[string][]time.Time{"a": {now, odd}}},
		"any": map[string]any{"a": odd}, "struct in any": []any{stamped{At: zero}}, "pointer in any": []any{&odd}, "type with methods": ownTime{Time: odd},
		"the same in a list": []ownTime{{Time: now}, {Time: odd}}, "the same in any": []any{ownTime{Time: odd}},
	} {
		encodes(t, name, value, false)
	}
	west := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", -(4*3600+30*60)))
	for name, value := range map[string]any{
		"time": now, "west": west, "UTC": now.UTC(), "zero": time.Time{}, "field": stamped{At: now, Then: &west}, "any": map[string]any{"a": now},
		"with methods": ownTime{Time: now}, "text like one": []any{`+08:27"`, 1.0},
	} {
		encodes(t, name, value, true)
	}
}

// A number in an interface is decoded to a float64.
func TestEncode_NumbersInInterfaces(t *testing.T) {
	t.Parallel()
	const odd = 1<<53 + 1
	big1, _ := new(big.Int).SetString("123456789012345678901234567891", 10)
	for name, value := range map[string]any{
		"int64": int64(odd), "int": -odd, "uint64": uint64(math.MaxUint64), "largest": int64(math.MaxInt64), "duration": time.Duration(odd), "pointer": func() *int64 { n := int64(odd); return &n }(),
		"Number": json.Number("9007199254740993"), "Number with a fraction": json.Number("3.14159265358979323846"), "large Number": json.Number("1e400"), "small Number": json.Number("1e-400"),
		"struct": wide{ID: odd}, "list": []int64{1, odd}, "map": map[string]uint64{"a": odd}, "deep": []any{map[string]any{"a": []wide{{ID: odd}}}},
		"JSON": json.RawMessage(`{"id": 9007199254740993}`), "big.Int": big1, "large JSON": json.RawMessage("1e400"),
	} {
		encodes(t, name, map[string]any{"a": value}, false)
		encodes(t, name+" in a field", struct{ V any }{value}, false)
	}
	for name, value := range map[string]any{
		"int64": int64(1 << 60), "smallest": int64(math.MinInt64), "2^53": 1 << 53, "int": 7, "uint64": uint64(1 << 63), "floats": []float64{0.1, 1.0 / 3, 12345678901234567890, 1e300, 5e-324, math.MaxFloat64},
		"float32": float32(0.1), "Number": json.Number("0.3333333333333333"), "Number of 2^60": json.Number("1152921504606846976"), "Number with an exponent": json.Number("1.50e+3"), "Number 0": json.Number("0.00000000000000000"), "Number of many zeros": json.Number("1.5000000000000000000000"),
		"text": "9007199254740993", "quoted": wide{Quoted: odd}, "float in a struct": wide{F: 12345678901234567890}, "with methods": snowflake(odd), "JSON": json.RawMessage(`[12345678901234567000, "9007199254740993", "\"9007199254740993"]`), "bytes": make([]byte, 20), "date": time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC),
	} {
		encodes(t, name, map[string]any{"a": value}, true)
	}
	encodes(t, "int64 not in an interface", []int64{odd}, true)
	encodes(t, "beside an interface", struct {
		ID int64
		V  any
	}{odd, "x"}, true)
}
