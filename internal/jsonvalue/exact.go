package jsonvalue

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// These complete "want … of a T" for a value with a part that comes back as another one.
const (
	wholeMinutes  = "times whose zone has an offset of whole minutes"
	float64Number = "numbers that a float64 holds, in the interfaces"
)

// inexact returns a requirement that v does not meet, or "". It looks for two parts that come
// back as others although their types can be encoded: a time in a zone with seconds in
// its offset, which is written as another instant, and a number in an interface, which is
// decoded to a float64. held says that v itself is decoded to an interface.
//
// It looks through v only if its type may have such a part and its JSON looks as if it had
// one, as most JSON does not.
func inexact(v reflect.Value, held bool, data []byte) (want string) {
	t := infoOf(v.Type())
	x := exactness{
		times:   (t.timed || t.dynamic) && hasOffset(data),
		numbers: (t.dynamic || held) && hasNumber(data, isLong),
		left:    4*len(data) + 64,
	}
	if x.times || x.numbers {
		x.look(v, held)
	}
	return x.want
}

// exactness looks through a value for times and numbers that come back as others. Like
// [search] it takes a limited number of steps.
type exactness struct {
	times, numbers bool   // the kinds of parts to look for
	left           int    // steps
	want           string // the requirement that the value does not meet; it ends the look
}

// look looks at v. held says that an interface holds v, or a value that v is a part of, so
// that numbers in it are decoded to float64s.
func (x *exactness) look(v reflect.Value, held bool) {
	t := v.Type()
	if t == timeType {
		x.time(v)
		return
	}
	if x.want != "" || isExact(t) {
		return
	}
	known := infoOf(t)
	if !known.dynamic && !(x.times && known.timed) && !(x.numbers && held) {
		return
	}
	if known.by.encodes != "" && (v.CanAddr() || known.by.held != "") && t.Kind() != reflect.Pointer && t.Kind() != reflect.Interface {
		x.own(v, held)
		return
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		f := float64(v.Int())
		x.number(held, f < 1<<63 && int64(f) == v.Int())
	case reflect.Uint, reflect.Uint64, reflect.Uintptr:
		f := float64(v.Uint())
		x.number(held, f < 1<<64 && uint64(f) == v.Uint())
	case reflect.String:
		x.number(held, t != numberType || !isLong([]byte(v.String())) || isFloat64(v.String()))
	default:
		x.parts(v, held)
	}
}

// isExact reports whether each value of t comes back as it is. It knows predeclared types only,
// and is quick, for the elements of long lists.
func isExact(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Uint8, reflect.Uint16, reflect.Uint32,
		reflect.Float32, reflect.Float64, reflect.String:
		return t.PkgPath() == ""
	}
	return false
}

// parts looks at the parts of v.
func (x *exactness) parts(v reflect.Value, held bool) {
	switch v.Kind() {
	case reflect.Interface:
		if v.NumMethod() == 0 {
			x.holds(v.Interface())
		} // nothing but null is decoded to an interface with methods
	case reflect.Pointer:
		if !v.IsNil() && x.step() {
			x.look(v.Elem(), held)
		}
	case reflect.Slice, reflect.Array:
		for i := 0; i < v.Len() && !isExact(v.Type().Elem()) && x.step(); i++ {
			x.look(v.Index(i), held)
		}
	case reflect.Map:
		if m, ok := v.Interface().(map[string]any); ok {
			x.holds(m)
			return
		}
		for all := v.MapRange(); !isExact(v.Type().Elem()) && all.Next() && x.step(); {
			x.look(all.Value(), held)
		}
	case reflect.Struct:
		for _, index := range infoOf(v.Type()).numbered {
			if part, err := v.FieldByIndexErr(index); err == nil {
				x.look(part, held)
			}
		}
	}
}

// holds looks at a value that an interface holds. The types that decoding makes come first,
// without reflection.
func (x *exactness) holds(value any) {
	switch v := value.(type) {
	case nil, string, float64, bool:
	case []any:
		for i := 0; i < len(v) && x.step(); i++ {
			x.holds(v[i])
		}
	case map[string]any:
		for _, e := range v {
			if !x.step() {
				return
			}
			x.holds(e)
		}
	default:
		if x.step() {
			x.look(reflect.ValueOf(v), true)
		}
	}
}

// step reports whether to go on. A value that takes more steps than its JSON has bytes has
// parts without a place in the JSON, so it is not known to come back, and is refused.
func (x *exactness) step() bool {
	if x.left--; x.left < 0 && x.want == "" {
		x.want = "JSON of all parts that have a place in it,"
	}
	return x.want == ""
}

// number notes that a number is not exact, if it is decoded to an interface.
func (x *exactness) number(held, exact bool) {
	if x.numbers && held && !exact {
		x.want = float64Number
	}
}

// time notes that v, a time, has an offset with seconds, which RFC 3339 does not write.
func (x *exactness) time(v reflect.Value) {
	var at *time.Time
	if v.CanAddr() {
		at = v.Addr().Interface().(*time.Time) // no copy
	} else {
		copied := v.Interface().(time.Time)
		at = &copied
	}
	if _, offset := at.Zone(); x.times && offset%60 != 0 {
		x.want = wholeMinutes
	}
}

// own looks at a value that methods encode. Which of its fields they write is not known, so
// all exported ones count for its times. For its numbers the JSON that the methods write is
// read.
func (x *exactness) own(v reflect.Value, held bool) {
	if x.times {
		x.ownTimes(v)
	}
	if x.numbers && held && infoOf(v.Type()).by.encodes == "JSON" {
		if v.CanAddr() {
			v = v.Addr()
		}
		data, err := json.Marshal(v.Interface())
		x.number(held, err == nil && !hasNumber(data, isOdd))
	}
}

// ownTimes looks at the times among v's exported fields, and at v if it is one.
func (x *exactness) ownTimes(v reflect.Value) {
	if v.Type() == timeType {
		x.time(v)
	} else if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				x.ownTimes(v.Field(i))
			}
		}
	}
}

// isQuoted reports whether f's tag has the option "string", so that a number in it is a string
// in JSON and comes back exactly.
func isQuoted(f reflect.StructField) bool {
	_, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	for option := range strings.SplitSeq(options, ",") {
		if option == "string" {
			t := f.Type
			if t.Kind() == reflect.Pointer {
				t = t.Elem()
			}
			return t.Kind() >= reflect.Int && t.Kind() <= reflect.Float64 || t.Kind() == reflect.String
		}
	}
	return false
}

// hasOffset reports whether a string in data may end with the offset of a zone. It is a cheap
// filter, which texts that are not times may pass.
func hasOffset(data []byte) bool {
	for _, sign := range []byte("+-") {
		for rest := data; ; {
			i := bytes.IndexByte(rest, sign)
			if i < 0 {
				break
			}
			if rest = rest[i+1:]; len(rest) >= 5 && isDigit(rest[0]) && isDigit(rest[1]) && (rest[2] == ':' || rest[4] == '"') {
				return true
			}
		}
	}
	return false
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// hasNumber reports whether such is true of a number in data, which is valid JSON.
func hasNumber(data []byte, such func([]byte) bool) bool {
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			i += textEnd(data[i:])
		case c == '-' || isDigit(c):
			n := i
			for i < len(data) && (isDigit(data[i]) || strings.IndexByte("+-.eE", data[i]) >= 0) {
				i++
			}
			if such(data[n:i]) {
				return true
			}
			i--
		}
	}
	return false
}

// textEnd returns the index of the quote that ends the string at the beginning of data.
func textEnd(data []byte) int {
	for i := 1; i < len(data); i++ {
		n := bytes.IndexByte(data[i:], '"')
		if n < 0 {
			break
		}
		i += n
		escapes := 0
		for data[i-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
	}
	return len(data)
}

// isLong reports whether a float64 may be unable to hold number: it holds any 15 digits.
func isLong(number []byte) bool { return len(number) > 15 || bytes.ContainsAny(number, "eE") }

// isOdd reports whether number is neither held by a float64 nor written from one: 1e21 as
// 1000000000000000000000 is not odd.
func isOdd(number []byte) bool {
	return isLong(number) && !isFloat64(string(number)) && !isShortest(string(number))
}

// isFloat64 reports whether a float64 holds number: a whole number exactly, any other with all
// the digits that are written.
func isFloat64(number string) bool {
	f, err := strconv.ParseFloat(number, 64)
	switch {
	case err != nil:
		return false
	case !strings.ContainsAny(number, ".eE"):
		return strconv.FormatFloat(f, 'f', 0, 64) == number
	}
	digits, exponent := decimal(number)
	d, e := decimal(strconv.FormatFloat(f, 'e', -1, 64))
	return digits == d && exponent == e
}

// isShortest reports whether number is the shortest text of a whole float64, as Go and
// JavaScript write it.
func isShortest(number string) bool {
	f, err := strconv.ParseFloat(number, 64)
	return err == nil && strconv.FormatFloat(f, 'f', -1, 64) == number
}

// decimal returns the digits d and the exponent e with which number is 0.d times ten to the
// power of e, without its sign. d has no zeros at its ends, so equal numbers have equal texts.
func decimal(number string) (digits string, exponent int) {
	mantissa, power := strings.TrimPrefix(number, "-"), ""
	if i := strings.IndexAny(mantissa, "eE"); i >= 0 {
		mantissa, power = mantissa[:i], mantissa[i+1:]
	}
	whole, part, _ := strings.Cut(mantissa, ".")
	digits = strings.TrimLeft(whole+part, "0")
	exponent = len(whole) - (len(whole) + len(part) - len(digits))
	if digits = strings.TrimRight(digits, "0"); digits == "" {
		return "", 0
	}
	if p, err := strconv.Atoi(power); err == nil {
		exponent += p
	}
	return digits, exponent
}
