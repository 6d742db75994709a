package aside_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside"
)

// Each time has a least value with which what it is for works.
func TestConfig_LeastTimes(t *testing.T) {
	t.Parallel()
	for name, least := range map[string]time.Duration{"cancel": 500 * time.Millisecond, "generation": 5 * time.Second, "user": time.Millisecond} {
		for _, ttl := range []time.Duration{least, least - 1} {
			err := opens(aside.Config{TTLs: map[string]time.Duration{name: ttl}})
			if ok := ttl == least; ok != (err == nil) || !ok && (!strings.Contains(err.Error(), `TTLs["`+name+`"]`) || !strings.Contains(err.Error(), "from "+least.String())) {
				t.Errorf("%s: %v: %v", name, ttl, err)
			}
		}
		variable := "CACHE_TTL_" + strings.ToUpper(name)
		for _, ttl := range []time.Duration{least, least - time.Microsecond} {
			_, err := fromEnv(map[string]string{variable: ttl.String()})
			if ok := ttl == least; ok != (err == nil) || !ok && (!strings.Contains(err.Error(), variable) || !strings.Contains(err.Error(), "from "+least.String())) {
				t.Errorf("%s=%v: %v", variable, ttl, err)
			}
		}
	}
	for loadTimeout, ok := range map[time.Duration]bool{-1: true, 0: true, 1: false, time.Millisecond - 1: false, time.Millisecond: true} {
		if err := opens(aside.Config{LoadTimeout: loadTimeout}); ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "LoadTimeout") {
			t.Errorf("LoadTimeout %v: %v", loadTimeout, err)
		}
	}
}

// opens reports what is wrong with cfg.
func opens(cfg aside.Config) error {
	cfg.Type = "memory"
	c, err := aside.Open(cfg)
	if err == nil {
		err = c.Close()
	}
	return err
}
