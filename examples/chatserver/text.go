package main

import (
	"encoding/json"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// joiner decodes JSON strings that are pieces of one text. A character may be split over two
// pieces, between the two escapes of a surrogate pair or between the bytes of its UTF-8.
// Decoding each piece alone would turn it into two U+FFFD. The zero value is ready to use.
type joiner struct{ held string } // the start of a split character, as it stands in JSON

// join decodes the next piece, and holds back a character that is incomplete at its end. It
// returns "" for JSON that is not a string.
func (j *joiner) join(data json.RawMessage) string {
	if len(data) < 2 || data[0] != '"' {
		return ""
	}
	text := j.held + string(data[1:len(data)-1])
	whole := len(text) - begun(text)
	j.held = text[whole:]
	return decoded(text[:whole])
}

// rest decodes the character that is held back after the last piece.
func (j *joiner) rest() string { return decoded(j.held) }

// decoded decodes a JSON string without its quotes.
func decoded(text string) (out string) {
	_ = json.Unmarshal([]byte(`"`+text+`"`), &out) // it was part of a JSON string
	return out
}

// begun returns the length of the incomplete character at the end of a JSON string's text,
// or 0.
func begun(text string) int {
	for len(text) > 0 {
		size, whole := character(text)
		if !whole {
			return len(text)
		}
		text = text[size:]
	}
	return 0
}

// character returns the length of the first character of a JSON string's text, and whether
// it is whole. A high surrogate, or the first bytes of UTF-8, at the end of the text are not.
func character(text string) (size int, whole bool) {
	if text[0] != '\\' {
		if !utf8.FullRuneInString(text) {
			return len(text), false
		}
		_, size = utf8.DecodeRuneInString(text)
		return size, true
	}
	unit, ok := escaped(text)
	switch low, paired := escaped(text[min(len(text), 6):]); {
	case !ok:
		return min(len(text), 2), true
	case !high(unit):
		return 6, true
	case len(text) == 6:
		return 6, false
	case paired && utf16.DecodeRune(unit, low) != utf8.RuneError:
		return 12, true
	}
	return 6, true
}

// escaped returns the UTF-16 unit that the text begins with, if it begins with \uXXXX.
func escaped(text string) (unit rune, ok bool) {
	if len(text) < 6 || text[:2] != `\u` {
		return 0, false
	}
	n, err := strconv.ParseUint(text[2:6], 16, 16)
	return rune(n), err == nil
}

func high(unit rune) bool { return unit >= 0xd800 && unit < 0xdc00 }

// isText reports whether all strings in valid JSON are text: UTF-8, with both halves of each
// surrogate pair. json.Unmarshal replaces anything else by U+FFFD, so that two different ids
// could become the same.
func isText(data []byte) bool {
	text := string(data)
	for len(text) > 0 {
		size, whole := character(text)
		unit, ok := escaped(text)
		if r, n := utf8.DecodeRuneInString(text); !whole || r == utf8.RuneError && n == 1 || ok && utf16.IsSurrogate(unit) && size == 6 {
			return false
		}
		text = text[size:]
	}
	return true
}
