package aside

import (
	"bytes"
	"context"

	"github.com/cacheaside/aside/internal/clone"
	"github.com/cacheaside/aside/internal/entry"
	"github.com/cacheaside/aside/internal/near"
	"github.com/cacheaside/aside/internal/size"
)

// readFound returns what was found says to the keyspace's codec.
func readFound[T any](f *front, space *Keyspace, key string, got *found) (T, error) {
	if got.kept != nil {
		return readStored[T](f, space, key, got.kept)
	}
	if space.Codec == Bytes && (got.own || space.Share) {
		if value, ok := adopt[T](got.value); ok {
			return value, nil
		}
	}
	return decode[T](space, got.value)
}

// remembers reports whether what values of the keyspace are decoded to as a T can
// serve the next reader too: because nobody modifies it, or as it can be copied.
func remembers[T any](space *Keyspace) bool {
	if space.Codec == Bytes {
		return false // they are what is stored
	}
	if space.Share || codecOf(space) != JSON {
		return space.Share
	}
	_, ok := clone.Of[T]()
	return ok
}

// readStored returns what s says: with Share, the same to all who ask.
func readStored[T any](f *front, space *Keyspace, key string, s *entry.Entry) (T, error) {
	if space.Share { // first, as it is the quickest
		if space.Codec == Bytes {
			if value, ok := adopt[T](s.Data); ok {
				return value, nil
			}
		} else if value, ok := entry.As[T](s); ok {
			return *value, nil
		}
	}
	if !remembers[T](space) {
		return decode[T](space, s.Data)
	}
	if value, ok := entry.As[T](s); ok {
		return handOver(space, *value), nil
	}
	value, err := decode[T](space, s.Data)
	if err != nil {
		return value, err
	}
	if remember(f, space, key, s, &value) {
		return handOver(space, value), nil
	}
	if first, ok := entry.As[T](s); ok {
		return handOver(space, *first), nil
	}
	return value, nil // it is too large, or this keyspace's values are read as several types
}

// remember keeps value as what e was decoded to, and has the cache of e know what that
// weighs. It reports false when something is remembered already, or the value is too
// large: a cache that has no room for it keeps the bytes alone.
func remember[T any](f *front, space *Keyspace, key string, e *entry.Entry, value *T) bool {
	if e.Decoded() {
		return false
	}
	room := f.roomFor(space) - entry.Bytes(key, e)
	weighs := 0
	if room > 0 {
		weighs = size.Of(value, e.Data, codecOf(space) == JSON, room)
	}
	if room <= 0 || weighs > room {
		e.Remember(nil, 0)
		return false
	}
	if !e.Remember(value, weighs) {
		return false
	}
	f.reweigh(key, e)
	return true
}

// handOver returns what a caller may have of a value that others are given, too.
func handOver[T any](space *Keyspace, value T) T {
	if space.Share {
		return value
	}
	plan, _ := clone.Of[T]()
	return clone.Value(plan, value)
}

// isNear reports whether the near cache has values of a keyspace.
func (f *front) isNear(space *Keyspace) bool { return f.near != nil && f.nearSpaces[space.Name] }

// here returns a key's value that is in this process.
func (f *front) here(space *Keyspace, key string) (*entry.Entry, bool) {
	if f.memory != nil {
		return f.memory.look(key)
	}
	if f.isNear(space) {
		s, ok := f.near.Get(key)
		if ok {
			f.count.nearHits.Add(1)
		}
		return s, ok
	}
	return nil, false
}

// kept returns a value that came from the backend with what it was decoded to before,
// if anything.
func (f *front) kept(key string, data []byte) *entry.Entry {
	if f.memory != nil {
		if s, ok := f.memory.look(key); ok && bytes.Equal(s.Data, data) {
			return s
		}
	}
	return f.memo.Get(key, data)
}

// roomFor is what a value of the keyspace may take in this process.
func (f *front) roomFor(space *Keyspace) int {
	if f.isNear(space) {
		return int(f.cfg.NearMaxBytes)
	}
	return int(f.cfg.MemoryMaxBytes)
}

// reweigh has the cache that s is in weigh it anew. One that is in none, as it comes from
// the backend and may go there again, is kept.
func (f *front) reweigh(key string, s *entry.Entry) {
	if f.memory != nil && f.memory.reweigh(key, s) || f.near.Reweigh(key, s) {
		return
	}
	f.memo.Keep(key, s)
}

// away asks the backend for a key's value on behalf of GetOrLoad.
func (f *front) away(ctx context.Context, space *Keyspace, key string) (found, error) {
	isNear := f.isNear(space)
	var before near.Ticket
	if isNear {
		before = f.near.Begin(key)
	}
	b := budget{left: f.cfg.Timeout}
	got, err := f.get(ctx, key, &b)
	if err == nil && got.ok && isNear {
		got.kept = f.near.Keep(key, before, got.value)
	}
	return got, err
}
