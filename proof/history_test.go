package proof

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A history has the reads and writes of rows, by all processes. Each write gives its row the next
// version, from 1 on, and each read returns a version. A history must obey two rules.
//
// The floor holds always: a read returns at least the newest version that was settled
// before it was called, or whose write had returned in the read's own process. An
// Update that is sealed, which means that Redis took its block and kept it while
// the write ran, is settled when it returns, or when its process dies. Any other
// write is settled when it returns with nothing pending, or later when its
// invalidation was seen to be delivered; until then it binds its own process alone.
//
// Linearizability holds for keys that only Update writes: there is an order of the reads and
// writes that agrees with the clock and in which each read returns the version of the write
// before it. Reads that overlap an unsealed Update of another process, from its call until it
// is settled, must obey the floor only.
type history struct {
	mu  sync.Mutex
	ops []*op
}

// op is a read or a write. Times are nanoseconds of one clock for all processes.
type op struct {
	Key     string
	Process int // a process that is started again has another number
	Kind    kind
	Version int  // written or read
	Absent  bool // the read returned ErrNotFound
	Call    int64
	Return  int64 // never, if the process died first

	// Of writes.
	Settled int64 // never, if nothing has shown that other processes must know
	Sealed  bool
}

type kind int

const (
	read kind = iota
	update
	invalidate // a write that is followed by an Invalidate
)

const never = math.MaxInt64

// absent reports whether a version of a row says that there is none.
func absent(version int) bool { return version%5 == 0 }

func (h *history) add(o *op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
}

// change calls do with the ops that were added, with the lock held.
func (h *history) change(do func(ops []*op)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do(h.ops)
}

// check returns an error if the history breaks one of the rules.
func (h *history) check() error {
	byKey := make(map[string][]*op)
	for _, o := range h.ops {
		byKey[o.Key] = append(byKey[o.Key], o)
	}
	for key, ops := range byKey {
		slices.SortFunc(ops, func(a, b *op) int { return cmp.Compare(a.Call, b.Call) })
		if err := checkFloor(ops); err != nil {
			return fmt.Errorf("%s: %w\n%s", key, err, describe(ops))
		}
		if !slices.ContainsFunc(ops, func(o *op) bool { return o.Kind == invalidate }) && !linearizable(ops) {
			return fmt.Errorf("%s: not linearizable\n%s", key, describe(ops))
		}
	}
	return nil
}

// checkFloor returns an error for the first read that breaks the rule of the floor.
func checkFloor(ops []*op) error {
	for _, r := range ops {
		if r.Kind != read {
			continue
		}
		if floor, top := bounds(r, ops); !r.within(floor, top) {
			return fmt.Errorf("%v: a version from %d to %d was to be read", r, floor, top)
		}
	}
	return nil
}

// bounds returns the oldest and the newest version that a read may return.
func bounds(r *op, ops []*op) (floor, top int) {
	floor, top = 1, 1
	for _, w := range ops {
		if w.Kind == read {
			continue
		}
		if w.Settled < r.Call || w.Process == r.Process && w.Return < r.Call {
			floor = max(floor, w.Version)
		}
		if w.Call <= r.Return {
			top = max(top, w.Version)
		}
	}
	return floor, top
}

func (o *op) within(floor, top int) bool {
	if o.Absent {
		newest := top - top%5
		return newest >= floor && newest > 0
	}
	return o.Version >= floor && o.Version <= top
}

// stale returns the reads that were older than the floor.
func (h *history) stale() (out []*op) {
	byKey := make(map[string][]*op)
	for _, o := range h.ops {
		byKey[o.Key] = append(byKey[o.Key], o)
	}
	for _, ops := range byKey {
		for _, r := range ops {
			if floor, top := bounds(r, ops); r.Kind == read && !r.within(floor, top) {
				out = append(out, r)
			}
		}
	}
	return out
}

// row is the sequential specification. The versions fix the order of the writes.
var row = porcupine.Model{
	Init: func() any { return 1 },
	Step: func(state, input, output any) (bool, any) {
		current, o := state.(int), input.(*op)
		switch {
		case o.Kind == update:
			return o.Version == current+1, o.Version
		case o.Absent:
			return absent(current), current
		default:
			return o.Version == current, current
		}
	},
}

func linearizable(ops []*op) bool {
	var checked []porcupine.Operation
	for _, o := range ops {
		if o.Kind != read || !exempt(o, ops) {
			checked = append(checked, porcupine.Operation{ClientId: o.Process, Input: o, Call: o.Call, Return: o.Return})
		}
	}
	return porcupine.CheckOperations(row, checked)
}

// exempt reports whether the read overlaps an unsealed Update of another process.
func exempt(r *op, ops []*op) bool {
	return slices.ContainsFunc(ops, func(w *op) bool {
		return w.Kind == update && !w.Sealed && w.Process != r.Process && r.Return >= w.Call && r.Call <= w.Settled
	})
}

func (o *op) String() string {
	at := func(t int64) string {
		if t == never {
			return "never"
		}
		return time.Duration(t).String()
	}
	what := fmt.Sprintf("reads %d", o.Version)
	switch {
	case o.Kind == read && o.Absent:
		what = "reads absent"
	case o.Kind != read:
		what = fmt.Sprintf("%s %d (settled %s, sealed %v)", [...]string{"", "updates to", "writes and invalidates"}[o.Kind], o.Version, at(o.Settled), o.Sealed)
	}
	return fmt.Sprintf("process %d, %s to %s, %s", o.Process, at(o.Call), at(o.Return), what)
}

func describe(ops []*op) string {
	ops = slices.SortedFunc(slices.Values(ops), func(a, b *op) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, o := range ops {
		fmt.Fprintln(&b, "\t", o)
	}
	return b.String()
}

// A check that cannot fail proves nothing, so histories that break a rule must be refused.
func TestHistory_Check(t *testing.T) {
	t.Parallel()
	reads := func(process, version int, call, ret int64) *op {
		return &op{Key: "k", Process: process, Kind: read, Version: version, Call: call, Return: ret}
	}
	updates := func(process, version int, call, ret int64) *op {
		return &op{Key: "k", Process: process, Kind: update, Version: version, Call: call, Return: ret, Settled: ret, Sealed: true}
	}
	unsealed := func(process, version int, call, ret, settled int64) *op {
		return &op{Key: "k", Process: process, Kind: update, Version: version, Call: call, Return: ret, Settled: settled}
	}
	none := func(process int, call, ret int64) *op {
		return &op{Key: "k", Process: process, Kind: read, Absent: true, Call: call, Return: ret}
	}
	for name, c := range map[string]struct {
		ops []*op
		ok  bool
	}{
		"old or new while it is written":         {[]*op{updates(0, 2, 10, 20), reads(1, 1, 11, 12), reads(1, 2, 14, 15)}, true},
		"old after new, while it is written":     {[]*op{updates(0, 2, 10, 20), reads(1, 2, 11, 12), reads(2, 1, 14, 15)}, false},
		"old after the write":                    {[]*op{updates(0, 2, 10, 20), reads(1, 1, 21, 22)}, false},
		"new before the write":                   {[]*op{updates(0, 2, 10, 20), reads(1, 2, 8, 9)}, false},
		"what nobody wrote":                      {[]*op{updates(0, 2, 10, 20), reads(1, 3, 21, 22)}, false},
		"old elsewhere while it is queued":       {[]*op{unsealed(0, 2, 10, 20, 30), reads(1, 2, 21, 22), reads(1, 1, 23, 24)}, true},
		"old in the same process":                {[]*op{unsealed(0, 2, 10, 20, 30), reads(0, 1, 23, 24)}, false},
		"old elsewhere when it was delivered":    {[]*op{unsealed(0, 2, 10, 20, 30), reads(1, 1, 31, 32)}, false},
		"old elsewhere when it never was":        {[]*op{unsealed(0, 2, 10, 20, never), reads(1, 1, 31, 32)}, true},
		"absent when it was":                     {[]*op{updates(0, 2, 1, 2), updates(0, 3, 3, 4), updates(0, 4, 5, 6), updates(0, 5, 7, 8), none(1, 9, 10)}, true},
		"absent when it was not":                 {[]*op{updates(0, 2, 1, 2), none(1, 9, 10)}, false},
		"two writes in the order of the commits": {[]*op{updates(0, 2, 10, 20), updates(1, 3, 10, 20), reads(2, 3, 21, 22)}, true},
		"two writes in the other order":          {[]*op{updates(0, 3, 10, 12), updates(1, 2, 13, 20), reads(2, 3, 21, 22)}, false},
	} {
		h := history{ops: c.ops}
		if err := h.check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
