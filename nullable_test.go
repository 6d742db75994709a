package aside_test

import (
	"encoding/json"
	"testing"
)

// nullable is null where it says so, and its zero value is a number, as those of some
// database drivers.
type nullable struct {
	Null bool
	N    int
}

func (n nullable) MarshalJSON() ([]byte, error) {
	if n.Null {
		return []byte("null"), nil
	}
	return json.Marshal(n.N)
}

func (n *nullable) UnmarshalJSON(data []byte) error {
	if n.Null = string(data) == "null"; n.Null {
		return nil
	}
	return json.Unmarshal(data, &n.N)
}

func TestP8_AValueThatIsNull(t *testing.T) {
	t.Parallel()
	comesBack(t, "null that is not the zero value", nullable{Null: true}, true)
	comesBack(t, "zero value", nullable{}, true)
	comesBack(t, "number", nullable{N: 7}, true)
	comesBack(t, "null that is the zero value", optional{}, true)
	comesBack(t, "nil in any", any(nil), true)
}
