package aside

import (
	"bytes"
	"context"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/clone"
	"github.com/cacheaside/aside/internal/entry"
	"github.com/cacheaside/aside/internal/near"
	"github.com/cacheaside/aside/internal/redisstore"
	"github.com/cacheaside/aside/internal/size"
)

// mode is how the values of one type are handed out to the callers of a keyspace. modeOf
// decides it once per call of GetOrLoad, as the first row that applies:
//
//	mode     keyspace, type               bytes are decoded   a caller gets
//	adopted  Codec Bytes                  never               the bytes themselves with Share or where no one else has them, else a copy
//	shared   Share                        once, for all       the decoded value, the same as all others
//	copied   JSON, types of [clone.Of]    once, for all       a copy of the decoded value
//	decoded  all others                   for each caller     a value decoded for it alone
type mode struct {
	hands handing
	plan  clone.Plan // how to copy, in mode copied
}

// handing is the row of the table at mode.
type handing int

const (
	decoded handing = iota
	adopted
	shared
	copied
)

// modeOf returns the mode of values of type T. It is split from modeOfOthers so that it
// is inlined.
func modeOf[T any](space *Keyspace) mode {
	if space.Share && space.Codec != Bytes {
		return mode{hands: shared}
	}
	return modeOfOthers[T](space)
}

// modeOfOthers is modeOf for values that are not shared.
func modeOfOthers[T any](space *Keyspace) mode {
	switch codecOf(space) {
	case Bytes:
		return mode{hands: adopted}
	case JSON:
		if plan, ok := clone.Of[T](); ok {
			return mode{hands: copied, plan: plan}
		}
	}
	return mode{hands: decoded}
}

// valueOf returns the value of data for one caller. own says that data is this caller's
// alone. e is the entry of data, if a cache in this process has one, and otherwise nil.
func valueOf[T any](f *front, space *Keyspace, r *read, data []byte, own bool, e *entry.Entry) (value T, err error) {
	switch r.mode.hands {
	case adopted:
		if !space.Share && !own {
			data = append([]byte{}, data...)
		}
		if value, ok := adopt[T](data); ok {
			return value, nil
		}
	case shared, copied:
		if e == nil {
			e = f.entryOf(r.key, data)
		}
		v, ok := entry.As[T](e)
		if !ok {
			var alone bool
			if v, alone, err = decodeOnce[T](f, space, r.key, e); err != nil {
				return value, err
			} else if alone {
				return *v, nil
			}
		}
		if r.mode.hands == shared {
			return *v, nil
		}
		return clone.Value(r.mode.plan, *v), nil
	}
	return decode[T](space, data)
}

// decodeOnce decodes the bytes of e for all callers, and keeps the value in e unless
// another caller was faster. alone reports that the value was not kept and is this
// caller's only: it is too large, or the keyspace's values are read as several types.
func decodeOnce[T any](f *front, space *Keyspace, key string, e *entry.Entry) (value *T, alone bool, err error) {
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

// remember keeps value as the decoded value of e, and updates the weight of e in its
// cache. It reports false if e has a decoded value already, or value is too large; the
// cache then keeps the bytes alone.
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
		e.Remember(nil, 0) // so that the next hit does not weigh the value again
		return false
	}
	if !e.Remember(value, weighs) {
		return false
	}
	f.reweigh(key, e)
	return true
}

// isNear reports whether the near cache holds values of the keyspace.
func (f *front) isNear(space *Keyspace) bool { return f.near != nil && f.nearSpaces[space.Name] }

// lookupLocal returns the value of a key that this process has in memory or in the near
// cache. old reports, in a keyspace with RefreshAfter, that the value is not fresh.
func (f *front) lookupLocal(space *Keyspace, r *read) (e *entry.Entry, old, ok bool) {
	if f.memory != nil {
		m, ok := f.memory.entry(r.key)
		if !ok {
			return nil, false, false
		}
		return &m.Entry, r.refreshes && !f.memory.isFresh(m), true
	}
	if f.isNear(space) {
		e, old, ok = f.near.Get(r.key)
		if ok {
			r.count.nearHits.Add(1)
		}
		return e, old && r.refreshes, ok
	}
	return nil, false, false
}

// entryOf returns an entry for bytes that came from the backend, with the decoded value
// if the same bytes were decoded before.
func (f *front) entryOf(key string, data []byte) *entry.Entry {
	if f.memory != nil {
		if e, ok := f.memory.entry(key); ok && bytes.Equal(e.Data, data) {
			return &e.Entry
		}
	}
	return f.memo.Get(key, data)
}

// roomFor returns the bytes that a value of the keyspace may take in this process.
func (f *front) roomFor(space *Keyspace) int {
	if f.isNear(space) {
		return int(f.cfg.NearMaxBytes)
	}
	if f.memory != nil {
		return int(f.cfg.MemoryMaxBytes)
	}
	return int(f.cfg.DecodedMaxBytes)
}

// reweigh updates the weight of e in the cache that has it. The memo takes an entry that
// no cache has: its bytes came from the backend, and will probably come again.
func (f *front) reweigh(key string, e *entry.Entry) {
	if f.memory != nil && f.memory.reweigh(key, e) || f.near.Reweigh(key, e) {
		return
	}
	f.memo.Keep(key, e)
}

// lookupBackend asks the backend for a key's value for GetOrLoad, and keeps the answer in
// the near cache.
func (f *front) lookupBackend(ctx context.Context, space *Keyspace, key string, refreshes bool) (found, error) {
	before := f.beginNear(space, key)
	b := budget{left: f.cfg.Timeout}
	got, err := f.ask(ctx, redisstore.Ask{Key: key, Marked: refreshes}, &b)
	if err == nil {
		f.keepNear(space, key, before, refreshes, &got)
	}
	return got, err
}

// beginNear tells the near cache, if it holds the keyspace, that the backend is about to
// be asked for key. keepNear gives it the answer, which it keeps only if no change was
// announced in between.
func (f *front) beginNear(space *Keyspace, key string) (before near.Ticket) {
	if f.isNear(space) {
		before = f.near.Begin(key)
	}
	return before
}

// keepNear ends the store that beginNear began: see there.
func (f *front) keepNear(space *Keyspace, key string, before near.Ticket, refreshes bool, got *found) {
	if got.ok && f.isNear(space) {
		old := refreshes && got.mark != backend.Fresh
		got.entry, got.own = f.near.Keep(key, before, got.value, old), false
	}
}
