package settings

import (
	"testing"

	"github.com/redis/go-redis/v9"
)

// A parameter that go-redis takes is taken here.
func TestURLParams_AreThoseOfGoRedis(t *testing.T) {
	t.Parallel()
	for key := range urlParams {
		for _, value := range []string{"1", "2", "true", "1s"} {
			text := "rediss://h?" + key + "=" + value
			if _, err := redis.ParseURL(text); err != nil || key == "protocol" && value == "1" { // which go-redis takes for 3
				continue
			}
			if _, err := ParseURL(text, func(field string) string { return field }); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
}
