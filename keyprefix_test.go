package aside_test

import (
	"strings"
	"testing"

	"github.com/cacheaside/aside"
)

// A prefix that ends within a word is that of other words as well.
func TestConfig_AKeyPrefixEndsWithASeparator(t *testing.T) {
	t.Parallel()
	for prefix, ok := range map[string]bool{
		"": true, "app:": true, "app1/": true, "app_": true, "{app}": true, "{app}:": true, "app:*": true,
		"app": false, "app1": false, "app:x": false, "{app}x": false, "앱": false, "app:é": false, "app:e\u0301": false,
	} {
		c, err := aside.Open(aside.Config{Type: "memory", KeyPrefix: prefix})
		if err == nil {
			c.Close()
		}
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "separator") {
			t.Errorf("KeyPrefix %q: %v", prefix, err)
		}
		_, err = fromEnv(map[string]string{"CACHE_KEY_PREFIX": prefix})
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "separator") {
			t.Errorf("CACHE_KEY_PREFIX=%s: %v", prefix, err)
		}
	}
}
