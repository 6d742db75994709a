package main

import (
	"fmt"
	"math"
	"strconv"
)

// table selects figures of the results and says how to show them.
type table struct {
	id      string // of the results' table
	title   string
	intro   string
	columns []column
	rows    []string // the possible rows, in order; nil means the names of the peers
	// base is the row to which ratios refer, in the results' table baseID.
	base, baseID string
}

// column is one figure of a row.
type column struct {
	key     string // in the results
	heading string
	format  func(float64) string
	ratio   bool // show the ratio to the base as well
	best    int  // the figure to mark: -1 the least, 1 the most, 0 none
}

// section is a group of tables under one heading.
type section struct {
	title, intro string
	tables       []table
}

// sections returns the sections of the report, in order.
func (b *bench) sections() []section {
	return []section{
		b.hitSection("Hits from Redis", "hits", `Values are in Redis; each read is one call of the library, with 1, 16 or 128 goroutines.
"One key" is one hot key, "many keys" are %d keys (%d for histories), read uniformly at random.
Libraries with a singleflight on their read path (rockscache, go-redis/cache, jetcache-go, gocache) send one GET for all callers that ask for the hot key at once.`),
		b.hitSection("Hits in near caches", "near", `The same with values kept in the process, in front of Redis. Ratios are to a GET of raw go-redis, too.
Redis notifies aside, rueidis, rueidisaside and go-redis of changed keys, jetcache-go has messages of its own, and go-redis/cache has none: see "Stale values" below.`),
		b.memorySection(),
		b.missSection(),
		listSection(),
		b.stampedeSection(),
		b.burstSection(),
		b.expirySection(),
		staleSection(),
		b.troubleSection(),
		b.writeSection(),
	}
}

func (b *bench) hitSection(title, id, intro string) section {
	if id == "hits" {
		intro = fmt.Sprintf(intro, b.kinds()[0].keys, b.kinds()[1].keys)
	}
	s := section{title: title, intro: intro}
	for _, k := range b.kinds() {
		s.tables = append(s.tables, table{
			id: id + "/" + k.name, title: capital(k.title) + ": µs an operation, by goroutines", columns: loadColumns(loads),
			base: baseline, baseID: "hits/" + k.name,
		}, table{
			id: id + "/" + k.name, title: capital(k.title) + ": the cost of an operation, many keys",
			columns: costs(load{1, true}, load{128, true}),
			base:    baseline, baseID: "hits/" + k.name,
		})
	}
	return s
}

// loadColumns returns the columns for the times of loads.
func loadColumns(loads []load) []column {
	var out []column
	for _, l := range loads {
		out = append(out, column{key: l.column(), heading: l.column(), format: significant, ratio: true, best: -1})
	}
	return out
}

// costs returns the columns for costs other than time, of a load with one goroutine and one with
// many.
func costs(one, many load) []column {
	at := func(l load, cost, heading string, format func(float64) string) column {
		return column{key: l.column() + " " + cost, heading: heading + ", " + strconv.Itoa(l.goroutines), format: format, ratio: cost == "cpu", best: -1}
	}
	return []column{
		at(one, "cpu", "CPU µs", significant), at(many, "cpu", "CPU µs", significant),
		at(one, "redis", "Redis's CPU µs", significant), at(many, "redis", "Redis's CPU µs", significant),
		at(many, "allocs", "allocations", significant), at(many, "bytes", "bytes allocated", whole),
	}
}

func (b *bench) memorySection() section {
	s := section{
		title: "In memory",
		intro: "There is no Redis. Each read makes the key from its id, as a service does. All but \"aside memory\" return the same value to every caller.",
	}
	for _, k := range b.kinds() {
		if k.name == "10KB" {
			continue
		}
		s.tables = append(s.tables, table{
			id: "memory/" + k.name, title: capital(k.title) + ": µs a hit, by goroutines",
			columns: append(loadColumns(memoryLoads),
				column{key: memoryLoads[0].column() + " allocs", heading: "allocations", format: significant, best: -1},
				column{key: memoryLoads[0].column() + " bytes", heading: "bytes allocated", format: whole, best: -1}),
			base: memoryBaseline, baseID: "memory/" + k.name,
		})
	}
	var sizes []column
	for _, n := range b.memorySizes() {
		for _, goroutines := range sizeGoroutines {
			key := sizeColumn(n, goroutines)
			sizes = append(sizes, column{key: key, heading: key, format: significant, ratio: true, best: -1})
		}
	}
	s.tables = append(s.tables,
		table{
			id: "memory/hits", title: "Caches of several sizes: µs a hit, by goroutines", columns: sizes, base: loadingBaseline, baseID: "memory/hits",
			intro: fmt.Sprintf("Values of 100 bytes; keys are read uniformly at random. Each cache is filled once and then measured in all rounds. Ratios here are to %q.", loadingBaseline),
		},
		table{
			id: "memory/misses", title: "Caches of several sizes: µs a miss, by goroutines", columns: sizes, base: loadingBaseline, baseID: "memory/misses",
			intro: fmt.Sprintf("Each read is of another key, in a cache that so many entries have filled, so each evicts an entry. The loader takes no time. Ratios here are to %q.", loadingBaseline),
		},
		table{
			id: "zipf", title: "Hits of Zipf-distributed reads",
			intro: fmt.Sprintf("%d keys, s = 1.01, values of 64 bytes to 2 KB; each cache has room for a tenth of all bytes, keys and 128 bytes an entry included.",
				b.scale(zipfKeys, zipfKeys/50)),
			columns: []column{{key: "hits", heading: "hits, %", format: significant, best: 1}},
		},
		table{
			id: "heap", title: "Heap per entry",
			intro:   fmt.Sprintf("After %d entries with values of 100 bytes; key and value are part of it.", b.scale(heapKeys, heapKeys/100)),
			columns: []column{{key: "bytes", heading: "bytes", format: whole, best: -1}},
		})
	return s
}

func (b *bench) missSection() section {
	s := section{
		title: "Cold misses",
		intro: `Each read is of a missing key; the loader takes no time. A proxy in front of Redis counts round trips, one read at a time; commands that a script runs inside Redis are not counted.
gocache stores in the background, which is not in its time. The stores by hand and those of go-redis/cache, jetcache-go and gocache are not guarded: see "Stale values".`,
	}
	for _, k := range b.kinds() {
		if k.name == "10KB" {
			continue
		}
		t := table{
			id: "misses/" + k.name, title: capital(k.title), base: baseline, baseID: "misses/" + k.name,
			columns: []column{
				{key: "1", heading: "µs, 1 goroutine", format: significant, ratio: true, best: -1},
				{key: "16", heading: "µs, 16", format: significant, ratio: true, best: -1},
				{key: "128", heading: "µs, 128", format: significant, ratio: true, best: -1},
				{key: "1 cpu", heading: "CPU µs, 1", format: significant, ratio: true, best: -1},
				{key: "16 cpu", heading: "CPU µs, 16", format: significant, ratio: true, best: -1},
				{key: "128 cpu", heading: "CPU µs, 128", format: significant, ratio: true, best: -1},
				{key: "128 redis", heading: "Redis's CPU µs, 128", format: significant, best: -1},
			},
		}
		if k.name == "100B" {
			t.columns = append(t.columns,
				column{key: "trips", heading: "round trips", format: count},
				column{key: "commands", heading: "commands", format: count})
		}
		s.tables = append(s.tables, t)
	}
	s.tables = append(s.tables, table{
		id: "misses/far", title: fmt.Sprintf("100 bytes, Redis %v away", farTrip), rows: rowsOf(farWaysOf), base: baseline, baseID: "misses/far",
		intro: fmt.Sprintf(`A proxy delays each direction by half of that. One goroutine reads; a miss is the median of %d.
A miss is expected here when this process has just invalidated the key (or when most reads of the keyspace miss), and not after %d hits each. "Round trips" is the wait of the caller divided by the time of a PING through the same proxy.`,
			b.scale(farReads, farReads/50), farHits),
		columns: []column{
			{key: "wait", heading: "µs", format: significant, ratio: true, best: -1},
			{key: "trips", heading: "round trips waited for", format: significant, best: -1},
		},
	})
	return s
}

func (b *bench) stampedeSection() section {
	columns := []column{
		{key: "loads", heading: "loads", format: count, best: -1},
		{key: "median", heading: "median caller, ms late", format: significant},
		{key: "worst", heading: "last caller, ms late", format: significant},
		{key: "commands", heading: "commands of a waiting process", format: count},
		{key: "failed", heading: "callers with an error", format: count},
	}
	return section{
		title: "A stampede",
		intro: fmt.Sprintf("%d callers in each process ask at once for a missing key. The load takes %v; a caller is late by the time since the end of the first load. Medians of %d stampedes.",
			stampedeCallers, stampedeLoad, b.scale(20, 2)),
		tables: []table{
			{id: "stampede/one", title: "One process", columns: columns},
			{id: "stampede/many", title: fmt.Sprintf("%d processes", b.scale(8, 2)), columns: columns},
		},
	}
}

func staleSection() section {
	var held []column
	for _, n := range heldAtOnce {
		held = append(held, column{key: strconv.Itoa(n), heading: fmt.Sprintf("late reads, %d at a time", n), format: whole, best: -1})
	}
	return section{
		title: "Stale values",
		intro: `Two clients, as two processes, load a key (up to 5 ms) while it is written and then invalidated in one of them, 1,000 times.
"Kept" counts the keys that still have the old value when all calls have ended; "late" counts the keys of which a read returned the old value although it began after the invalidation had returned.`,
		tables: []table{{id: "stale", title: "Of 1,000 racing writes", columns: []column{
			{key: "kept", heading: "kept the old value", format: whole, best: -1},
			{key: "late", heading: "late reads of the old value", format: whole, best: -1},
		}}, {
			id: "held", title: "Of 1,000 writes of a key that both processes hold",
			intro:   "Both have read the key before. One writes it, and the other reads it as soon as the write has returned. A near cache answers until Redis's message has been handled, which `Update` has sent before the write.",
			columns: held,
		}},
	}
}

func (b *bench) troubleSection() section {
	limit := func(v float64) string {
		if math.IsInf(v, 1) {
			return fmt.Sprintf("> %.0f", float64(b.troubleLimit().Milliseconds()))
		}
		return significant(v)
	}
	columns := []column{
		{key: "first", heading: "first call, ms", format: limit, best: -1},
		{key: "median", heading: "median, ms", format: limit, best: -1},
		{key: "failed", heading: "calls without a value, %", format: whole, best: -1},
		{key: "calls", heading: "calls made", format: whole},
	}
	return section{
		title: "Redis in trouble",
		intro: fmt.Sprintf("Calls one after another, each for a key of its own, without a deadline, with a load of %v. A call is given up after %v, and no more are made after twice that. Cache-aside by hand loads when Redis fails.", troubleLoad, b.troubleLimit()),
		tables: []table{
			{id: "trouble/refused", title: "Redis refuses connections", columns: columns},
			{id: "trouble/hangs", title: "Redis hangs", columns: columns},
		},
	}
}

func (b *bench) writeSection() section {
	var many []column
	for _, n := range b.manyKeys() {
		many = append(many,
			column{key: manyColumn(n), heading: fmt.Sprintf("ms, %d keys", n), format: significant, ratio: true, best: -1},
			column{key: manyColumn(n) + " worst", heading: fmt.Sprintf("slowest GET meanwhile, ms, %d", n), format: significant, best: -1})
	}
	return section{
		title: "Writes",
		intro: "The time to invalidate a key, mostly one without a value; the write itself takes no time.",
		tables: []table{{
			id: "writes", title: "µs a write", rows: rowsOf(writeWaysOf), base: baseline, baseID: "writes",
			columns: []column{
				{key: "1", heading: "µs, 1 goroutine", format: significant, ratio: true, best: -1},
				{key: "16", heading: "µs, 16", format: significant, ratio: true, best: -1},
				{key: "1 cpu", heading: "CPU µs, 1", format: significant, ratio: true, best: -1},
				{key: "trips", heading: "round trips", format: count},
				{key: "many trips", heading: fmt.Sprintf("round trips for %d keys of a slot", manyIDs), format: count},
			},
		}, {
			id: "writes/many", title: "Invalidating many keys in one call", columns: many, base: baseline, baseID: "writes/many",
			intro: "All keys have a value of 100 bytes. Meanwhile another client, on a connection of its own, sends one GET after another; the slowest shows how long Redis was busy with one command. Cache-aside by hand sends one DEL.",
		}},
	}
}

// count formats a number that is whole for each operation; a median or a mean of several may
// have a fraction.
func count(v float64) string {
	if v == math.Trunc(v) {
		return whole(v)
	}
	return significant(v)
}

// significant formats a number with two or three significant digits.
func significant(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	decimals := 1 - int(math.Floor(math.Log10(math.Abs(v))))
	return strconv.FormatFloat(v, 'f', min(decimals, 6), 64)
}

func whole(v float64) string { return strconv.FormatFloat(v, 'f', 0, 64) }
