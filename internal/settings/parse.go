// Package settings parses the text of settings: numbers and durations ([Int], [Float],
// [Duration], [Bool]), hosts ([SplitHost]), and the URLs of Redis in the forms of several
// clients ([ParseURL]). [UnknownVars] finds variables with names that are probably misspelt.
//
// It is apart from the configuration of the cache because none of it depends on a Cache: the
// functions take a text and return a value. They do not read the environment, so tests need
// not change it.
//
// The parsers of numbers return [ErrRejected], and leave it to the caller to name the
// variable and the range. The errors of ParseURL and SplitHost name the part of the text
// that is wrong and say which text is wanted in its place; the caller prepends "aside: " and
// the name of the variable or field. No error shows a value, which may be a secret.
package settings

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// ErrRejected is returned by the parsers for a text outside the range or form that they
// take. The caller knows both, and should say them in its own error.
var ErrRejected = errors.New("rejected")

// maxDuration is the longest duration of a parameter in a URL. It keeps clear of the end of
// time.Duration, where a sum of two would be negative.
const maxDuration = 365 * 24 * time.Hour

// Bool parses true, 1, yes and on, or false, 0, no and off, in any case.
func Bool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "1", "yes", "on":
		return true, nil
	case "false", "0", "no", "off":
		return false, nil
	}
	return false, ErrRejected
}

// Int returns a parser of whole decimal numbers from low to high.
func Int(low, high int64) func(string) (int64, error) {
	return func(s string) (int64, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < low || n > high {
			return 0, ErrRejected
		}
		return n, nil
	}
}

// Float returns a parser of numbers from low to high. NaN is in no range.
func Float(low, high float64) func(string) (float64, error) {
	return func(s string) (float64, error) {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !(v >= low && v <= high) {
			return 0, ErrRejected
		}
		return v, nil
	}
}

// Duration returns a parser of durations from low to high, each given as a number of seconds
// (1800, 0.5) or in the form of [time.ParseDuration] (30m).
func Duration(low, high time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			seconds, err := Float(low.Seconds(), high.Seconds())(s)
			if err != nil {
				return 0, ErrRejected
			}
			d = time.Duration(seconds * float64(time.Second))
		}
		if d < low || d > high {
			return 0, ErrRejected
		}
		return d, nil
	}
}

// IsMeasure reports whether s is a number or a duration of at most 12 characters. An error may
// show such a text: of all secrets only a PIN looks like one.
func IsMeasure(s string) bool {
	if len(s) > 12 {
		return false
	}
	_, err := strconv.ParseFloat(s, 64)
	if err != nil {
		_, err = time.ParseDuration(s)
	}
	return err == nil
}
