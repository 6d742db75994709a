// Package settings parses environment variables: numbers and durations ([Int], [Float],
// [Duration], [Bool]), and the URLs of Redis in the forms of several clients ([ParseURL]).
// [UnknownVars] finds names that were probably meant to be those of settings.
//
// The parsers of numbers return [ErrRejected], and leave it to the caller to name the
// variable and the accepted range. Errors of ParseURL say which text is accepted. Neither
// shows a value, which may be a secret.
package settings

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// ErrRejected is the error of a text that is not accepted. Callers say what is.
var ErrRejected = errors.New("rejected")

// maxDuration is the longest that a setting may last.
const maxDuration = 365 * 24 * time.Hour

// Bool reads true or false, in the forms that people write.
func Bool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "1", "yes", "on":
		return true, nil
	case "false", "0", "no", "off":
		return false, nil
	}
	return false, ErrRejected
}

// Int returns a function that reads a whole number from low to high.
func Int(low, high int64) func(string) (int64, error) {
	return func(s string) (int64, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < low || n > high {
			return 0, ErrRejected
		}
		return n, nil
	}
}

// Float returns a function that reads a number from low to high.
func Float(low, high float64) func(string) (float64, error) {
	return func(s string) (float64, error) {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !(v >= low && v <= high) {
			return 0, ErrRejected
		}
		return v, nil
	}
}

// Duration returns a function that reads seconds, 1800 or 0.5, or a Go duration, 30m.
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

// IsMeasure reports whether s is a number or a duration, of at most 12 characters. An error
// may show it: nobody's secret looks like one, but for a PIN.
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
