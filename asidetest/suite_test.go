package asidetest_test

import "testing"

// An example has no testing.T, so its test runs here.
func TestExampleRun(t *testing.T) {
	t.Parallel()
	testStore(t)
}
