package aside

import "time"

// AwaitFills waits until all that c has loaded is stored, or is not going to be: callers
// do not.
func AwaitFills(c Cache) {
	f, err := frontOf(c)
	for err == nil && f.life.Settling() > 0 {
		time.Sleep(20 * time.Microsecond)
	}
}
