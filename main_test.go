package aside_test

import (
	"flag"
	"log/slog"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
)

var logs = flag.Bool("log", false, "let caches and Redis clients log to stderr")

// ofClients is what go-redis logs.
var ofClients clientLog

// Tests of trouble make much of it, which is logged as it should be: nobody reads
// that of tests that pass. What a test checks of the log, it takes from a Logger of
// its own. When all tests are over, no goroutine is left.
func TestMain(m *testing.M) {
	flag.Parse()
	if !*logs {
		slog.SetDefault(slog.New(slog.DiscardHandler))
		redis.SetLogger(&ofClients)
	}
	goleak.VerifyTestMain(m)
}
