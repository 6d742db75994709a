package aside

import (
	"bytes"
	"context"

	"github.com/cacheaside/aside/internal/clone"
	"github.com/cacheaside/aside/internal/entry"
	"github.com/cacheaside/aside/internal/near"
	"github.com/cacheaside/aside/internal/size"
)

// mode is how values of one type are handed to the callers of a keyspace. It is decided
// once a call of GetOrLoad, by modeOf, as the first of these that fits:
//
//	mode     keyspace, type               bytes are decoded   a caller gets
//	adopted  Codec Bytes                  never               the bytes themselves with Share or where no one else has them, else a copy
//	shared   Share                        once, for all       the decoded value, the same as all others
//	copied   JSON, types of [clone.Of]    once, for all       a copy of the decoded value
//	decoded  all others                   for each caller     a value decoded for it alone
type mode struct {
	hands handing
	plan  clone.Plan // of copied
}

type handing int

const (
	decoded handing = iota
	adopted
	shared
	copied
)

func modeOf[T any](space *Keyspace) mode {
	switch {
	case space.Codec == Bytes:
		return mode{hands: adopted}
	case space.Share:
		return mode{hands: shared}
	case codecOf(space) == JSON:
		if plan, ok := clone.Of[T](); ok {
			return mode{hands: copied, plan: plan}
		}
	}
	return mode{hands: decoded}
}

// valueOf returns what the bytes that were found say, to one caller.
func valueOf[T any](f *front, space *Keyspace, r *read, got *found) (value T, err error) {
	switch r.mode.hands {
	case adopted:
		data := got.value
		if !space.Share && !got.own {
			data = append([]byte{}, data...)
		}
		if value, ok := adopt[T](data); ok {
			return value, nil
		}
	case shared, copied:
		if got.entry == nil {
			got.entry = f.entryOf(r.key, got.value)
		}
		v, alone, err := decodedOnce[T](f, space, r.key, got.entry)
		switch {
		case err != nil:
			return value, err
		case alone || r.mode.hands == shared:
			return *v, nil
		}
		return clone.Value(r.mode.plan, *v), nil
	}
	return decode[T](space, got.value)
}

// decodedOnce returns what the bytes of e are decoded to, which is remembered in e. With
// alone it is not, and the caller is the only one who has the value: it is too large, or the
// keyspace's values are read as several types.
func decodedOnce[T any](f *front, space *Keyspace, key string, e *entry.Entry) (value *T, alone bool, err error) {
	if value, ok := entry.As[T](e); ok {
		return value, false, nil
	}
	v, err := decode[T](space, e.Data)
	if err != nil {
		return nil, false, err
	}
	if remember(f, space, key, e, &v) {
		return &v, false, nil
	}
	if first, ok := entry.As[T](e); ok {
		return first, false, nil
	}
	return &v, true, nil
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

// isNear reports whether the near cache has values of a keyspace.
func (f *front) isNear(space *Keyspace) bool { return f.near != nil && f.nearSpaces[space.Name] }

// lookupLocal returns a key's value that is in this process.
func (f *front) lookupLocal(space *Keyspace, key string) (*entry.Entry, bool) {
	if f.memory != nil {
		return f.memory.entry(key)
	}
	if f.isNear(space) {
		e, ok := f.near.Get(key)
		if ok {
			f.count.nearHits.Add(1)
		}
		return e, ok
	}
	return nil, false
}

// entryOf returns an entry of bytes that came from the backend, with what they were decoded
// to before, if anything.
func (f *front) entryOf(key string, data []byte) *entry.Entry {
	if f.memory != nil {
		if e, ok := f.memory.entry(key); ok && bytes.Equal(e.Data, data) {
			return e
		}
	}
	return f.memo.Get(key, data)
}

// roomFor is what a value of the keyspace may take in this process.
func (f *front) roomFor(space *Keyspace) int {
	if f.isNear(space) {
		return int(f.cfg.NearMaxBytes)
	}
	if f.memory != nil {
		return int(f.cfg.MemoryMaxBytes)
	}
	return int(f.cfg.DecodedMaxBytes)
}

// reweigh has the cache that has e weigh it anew. The memo keeps an entry that no cache has,
// as its bytes came from the backend and may come again.
func (f *front) reweigh(key string, e *entry.Entry) {
	if f.memory != nil && f.memory.reweigh(key, e) || f.near.Reweigh(key, e) {
		return
	}
	f.memo.Keep(key, e)
}

// lookupBackend asks the backend for a key's value, on behalf of GetOrLoad.
func (f *front) lookupBackend(ctx context.Context, space *Keyspace, key string) (found, error) {
	isNear := f.isNear(space)
	var before near.Ticket
	if isNear {
		before = f.near.Begin(key)
	}
	b := budget{left: f.cfg.Timeout}
	got, err := f.get(ctx, key, &b)
	if err == nil && got.ok && isNear {
		got.entry, got.own = f.near.Keep(key, before, got.value), false
	}
	return got, err
}
