package aside_test

import (
	"testing"

	"go.uber.org/goleak"
)

// When all tests are over, no goroutine is left.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
