package aside_test

import (
	"encoding/json"
	"testing"
)

// A value that is asked for as an interface is decoded to what JSON makes of it.
func TestP8_NumbersThatAFloat64DoesNotHold(t *testing.T) {
	t.Parallel()
	const odd = 1<<53 + 1
	comesBack(t, "int64", int64(odd), true)
	comesBack(t, "any", any(int64(odd)), false)
	comesBack(t, "Number in any", any(json.Number("9007199254740993")), false)
	comesBack(t, "list in any", any([]int64{odd}), false)
	comesBack(t, "in any", map[string]any{"a": int64(odd)}, false)
	comesBack(t, "float64 in any", any(1.0/3), true)
	comesBack(t, "text in any", any("9007199254740993"), true)
}
