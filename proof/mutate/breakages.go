package main

// breakages are the bugs that the suite must catch: those of the protocol, each
// of which once looked harmless to somebody, and those of what is around it.
var breakages = []breakage{
	// The Redis protocol.
	{"a fill without its token check", []edit{{"scripts.go", "fillScript = script(\"fill\", luaLive+`\nif live['load'] ~= ARGV[1] then return 0 end", "fillScript = script(\"fill\", luaLive+`"}}},
	{"an invalidation that leaves the lease", []edit{{"scripts.go", "redis.pcall('HDEL', KEYS[i + 1], 'load', 'until', 'claim', 'waits', 'failed', 'none')", "redis.pcall('HDEL', KEYS[i + 1], 'none')"}}},
	{"an invalidation that leaves the not-found marker", []edit{{"scripts.go", "redis.pcall('HDEL', KEYS[i + 1], 'load', 'until', 'claim', 'waits', 'failed', 'none')", "redis.pcall('HDEL', KEYS[i + 1], 'load', 'until', 'claim', 'waits', 'failed')"}}},
	{"an invalidation that lifts a writer's block", []edit{{"scripts.go", "redis.pcall('HDEL', KEYS[i + 1], 'load', 'until', 'claim', 'waits', 'failed', 'none')", "redis.pcall('DEL', KEYS[i + 1])"}}},
	{"a lease token per process in place of per load", []edit{
		{"scripts.go", "local token = ARGV[2] .. '.' .. t[1] .. '.' .. t[2]", "local token = ARGV[2]"},
		{"backend_redis.go", "req.TTL.Milliseconds(), rand.Text(), req.Waited", "req.TTL.Milliseconds(), fmt.Sprintf(\"%p\", b), req.Waited"},
		{"backend_redis.go", "\t\"crypto/rand\"\n", ""}}},
	{"a lease request that is sent twice with the same token", []edit{{"scripts.go", "local token = ARGV[2] .. '.' .. t[1] .. '.' .. t[2]", "local token = ARGV[2]"}}},
	{"a lease granted during a write", []edit{{"scripts.go", "if blocked then return {'writing', ''} end", ""}}},
	{"a lease granted over another", []edit{{"scripts.go", "		return {'loading', live['load']}\n", ""}}},
	{"a lease request that does not look at the key again", []edit{{"scripts.go", "if value then return {'present', value} end", "if value and claim then return {'present', value} end"}}},
	{"a block that holds one writer's token only", []edit{
		{"scripts.go", "redis.call('HSET', KEYS[i + 1], 'w:' .. ARGV[1], deadline)", "redis.call('HSET', KEYS[i + 1], 'w:', deadline)"},
		{"scripts.go", "redis.call('HDEL', KEYS[i + 1], 'w:' .. ARGV[1])", "redis.call('HDEL', KEYS[i + 1], 'w:')"},
		{"scripts.go", "if live['w:' .. ARGV[1]] then", "if live['w:'] then"},
		{"scripts.go", "redis.call('HSET', KEYS[2], 'w:' .. ARGV[1], deadline)", "redis.call('HSET', KEYS[2], 'w:', deadline)"}}},
	{"a finish that leaves leases alone", []edit{{"scripts.go", "	drop(i)\n	redis.call('HDEL'", "	redis.call('UNLINK', KEYS[i])\n	redis.call('HDEL'"}}},
	{"a seize that leaves the value", []edit{{"scripts.go", "blockScript = script(\"block\", luaDrop+luaNow+`\nfor i = 1, #KEYS, 2 do drop(i) end", "blockScript = script(\"block\", luaDrop+luaNow+`"}}},
	{"a seize that sets before it deletes", []edit{
		{"scripts.go", "blockScript = script(\"block\", luaDrop+luaNow+`\nfor i = 1, #KEYS, 2 do drop(i) end", "blockScript = script(\"block\", luaDrop+luaNow+`"},
		{"scripts.go", "		redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])\n	end\nend\n", "		redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])\n	end\n	drop(i)\nend\n"}}},
	{"a fill that deletes before it sets", []edit{{"scripts.go", "	redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[2])\n", "	redis.call('DEL', KEYS[2])\n	redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[2])\n"}}},
	{"a renewal that revives an expired lease", []edit{{"scripts.go", "elseif live['load'] == ARGV[1] then\n	if live['claim']", "elseif not live['load'] or live['load'] == ARGV[1] then\n	redis.call('HSET', KEYS[2], 'load', ARGV[1])\n	if live['claim']"}}},
	{"a renewal of a lease that leaves the lease key to expire", []edit{{"scripts.go", "lasts(deadline)\nreturn 1\n`)\n\n	// fillScript", "return 1\n`)\n\n	// fillScript"}}},
	{"a release of another's lease", []edit{{"scripts.go", "releaseScript = script(\"release\", luaLive+`\nif live['load'] ~= ARGV[1] then return 0 end", "releaseScript = script(\"release\", luaLive+`"}}},
	{"a lease that never expires beside other fields", []edit{{"scripts.go", "if live['load'] and not keep('until', live['until']) then", "if live['load'] and not live['until'] then"}}},
	{"a block that never expires beside other fields", []edit{{"scripts.go", "'w:' and keep(all[i], all[i + 1]) then blocked = true end", "'w:' then keep(all[i], all[i + 1]) blocked = true end"}}},
	{"waiters of failing loads that load in turn", []edit{{"scripts.go", "			return {'unleased', ''}\n", "			return {'loading', live['load']}\n"}}},
	{"a claim that ignores another's value", []edit{{"scripts.go", "if value then return {'present', value} end", "if value and not claim then return {'present', value} end"}}},
	{"a bad value removed without comparing", []edit{{"scripts.go", "if value and ARGV[4] == '1' and value == ARGV[5] then", "if value and ARGV[4] == '1' then"}}},
	{"a lease key in another slot", []edit{{"leasekey.go", "return \"{\" + key + \"}:lease\"", "return key + \":lease\""}}},

	// The same in memory.
	{"memory: a fill without its token check", []edit{{"backend_memory.go", "	if l == nil || l.token != token || token == \"\" {\n		return false, nil\n	}\n	l.endLoad()\n	m.values.Set(key, &memoryEntry{stored: stored{data: fill.Value}", "	l.endLoad()\n	m.values.Set(key, &memoryEntry{stored: stored{data: fill.Value}"}}},
	{"memory: an invalidation that leaves the lease", []edit{{"backend_memory.go", "	m.values.Invalidate(key)\n	l.endLoad()\n}\n\nfunc (m *memoryBackend) Lease", "	m.values.Invalidate(key)\n}\n\nfunc (m *memoryBackend) Lease"}}},
	{"memory: a lease granted during a write", []edit{{"backend_memory.go", "	case l != nil && len(l.blocks) > 0 && req.Claim == nil:\n		return Lease{State: Writing}, nil\n", ""}}},
	{"memory: an unblock that leaves the value", []edit{{"backend_memory.go", "		m.drop(key, l)\n		if l != nil {", "		if l != nil {"}}},

	// The write path.
	{"an update that does not seize", []edit{{"aside.go", "	unblocked, _ := u.f.block(ctx, u.budget, u.token, blockTTL, u.keys)\n", "	var unblocked []string\n"}}},
	{"an update that does not finalise", []edit{{"aside.go", "		if e := u.f.unblock(ctx, u.budget, u.token, u.keys); err == nil {\n			err = e\n		}\n", ""}}},
	{"a seize that fails and leaves the key trusted", []edit{{"aside.go", "	u.f.queue.hold(unblocked)\n", ""}, {"aside.go", "	defer u.f.queue.release(unblocked)\n", ""}}},
	{"a queue that delivers before the write returned", []edit{
		{"aside.go", "	u.f.queue.hold(unblocked)\n", "	_ = u.f.settled(u.keys, unblocked, nil)\n"}, {"aside.go", "	defer u.f.queue.release(unblocked)\n", ""},
		{"aside.go", "u.f.unblock(ctx, u.budget, u.token, u.keys); err == nil {", "error(nil); len(unblocked) == 0 {\n			e = u.f.unblock(ctx, u.budget, u.token, u.keys)"}}},
	{"a block that is not renewed", []edit{{"aside.go", "	done := repeat(blockTTL/3,", "	done := repeat(time.Hour,"}}},
	{"a write that goes on after its block", []edit{{"aside.go", "	lapse := time.AfterFunc(time.Until(sent)+blockTTL-blockMargin, func() { lose(ErrBlockLost) })\n", "	lapse := time.AfterFunc(time.Hour, func() {})\n"}}},
	{"a refused write that is written", []edit{{"aside.go", "		if u.f.cfg.RefuseWrites {\n			return ErrWriteRefused\n		}\n", ""}}},
	{"an invalidation that ends with its caller", []edit{{"deliver.go", "context.WithoutCancel(ctx), keys, b, func(ctx context.Context, keys []string) error {\n		return f.backend.Delete", "ctx, keys, b, func(ctx context.Context, keys []string) error {\n		return f.backend.Delete"}}},

	// Flights.
	{"joiners that take any flight's result", []edit{{"flight.go", "	return fl.started > arrived || fl.polled > arrived || done && fl.filled > arrived\n", "	return true\n"}}},
	{"joiners that take a fill sent before they came", []edit{{"flight.go", "done && fl.filled > arrived", "done && fl.filled > 0"}}},
	{"a polled value handed to a late comer", []edit{{"flight.go", "fl.polled > arrived ||", "fl.polled > 0 ||"}}},
	{"a question numbered after its answer", []edit{{"flight.go", "		fl.polled = fl.f.flights.seq.Add(1)\n		lease, mine, err := fl.askLease(req)\n", "		lease, mine, err := fl.askLease(req)\n		fl.polled = fl.f.flights.seq.Add(1)\n"}}},
	{"a write that detaches no flight", []edit{{"flight.go", "			fl.detached = true\n			delete(fs.byKey, key)\n", ""}}},
	{"a detached flight that fills", []edit{{"flight.go", "if ok && (fl.isDetached() || f.queue.distrusts(fl.key)) {", "if ok && f.queue.distrusts(fl.key) {"}}},
	{"a flight of a distrusted key that fills", []edit{{"flight.go", "if ok && (fl.isDetached() || f.queue.distrusts(fl.key)) {", "if ok && fl.isDetached() {"},
		{"flight.go", "			fl.detached = true\n			delete(fs.byKey, key)\n", "			delete(fs.byKey, key)\n"}}},
	{"the first caller's cancellation fails the load", []edit{{"flight.go", "context.WithCancelCause(context.WithoutCancel(ctx))", "context.WithCancelCause(ctx)"}}},
	{"a load that nobody waits for goes on", []edit{{"flight.go", "		fl.cancel(errAbandoned)\n", ""}}},
	{"a lease kept by a load that was called off", []edit{{"flight.go", "		_ = fl.f.release(context.WithoutCancel(fl.ctx), fl.key, fl.f.newBudget(), token)\n	})", "	})"}}},
	{"a lease that is not renewed", []edit{{"flight.go", "	extended := repeat(leaseTTL/3,", "	extended := repeat(time.Hour,"}}},
	{"a failed load that keeps its lease", []edit{{"flight.go", "		fl.failed = f.release(ctx, fl.key, f.newBudget(), token) != nil\n", ""}}},
	{"a panic that harms the process", []edit{{"flight.go", "		if p := recover(); p != nil {\n			fl.err = &PanicError{Value: p, Stack: debug.Stack()}\n		}\n", ""}, {"flight.go", "	\"runtime/debug\"\n", ""}}},
	{"joiners that share the leader's value", []edit{{"aside.go", "if fl.polled == 0 && (leads || fl.space.Share) {", "if fl.polled == 0 {"}}},

	// The read path.
	{"a reader that is trusted while the key is queued", []edit{{"aside.go", "	if f.queue.distrusts(r.key) {\n		r.degrade(f)\n		return value, false\n	}\n", ""}}},
	{"a decode error served as zero", []edit{{"aside.go", "		r.undecodable(ctx, f, got.value, err)\n		return value, false\n	}\n	return value, true\n", "		r.undecodable(ctx, f, got.value, err)\n	}\n	return value, true\n"}}},
	{"an empty value that is a miss", []edit{{"aside.go", "	if !got.ok {\n", "	if !got.ok || len(got.value) <= 2 {\n"}}},
	{"a waiter in trouble that waits for more of it", []edit{{"aside.go", "			fl.hurry()\n", ""}}},

	// Waiting for another process's load.
	{"a fill that wakes nobody", []edit{{"scripts.go", "'waits', 'failed', 'none')\nend\nwake(waits, KEYS[1])\n", "'waits', 'failed', 'none')\nend\n"}}},
	{"a release that wakes nobody", []edit{{"scripts.go", "	lasts(deadline)\nend\nwake(waits, KEYS[1])\n", "	lasts(deadline)\nend\n"}}},
	{"an invalidation that wakes nobody", []edit{{"scripts.go", "	wake(waits, KEYS[i])\n", ""}}},
	{"a Clear that wakes nobody", []edit{{"scripts.go", "wake(waits, ARGV[1])\n", ""}}},
	{"a lease in place of one that lapsed that wakes nobody", []edit{{"scripts.go", "	redis.call('HDEL', KEYS[2], 'waits')\n	wake(waits, KEYS[1])\n", "	redis.call('HDEL', KEYS[2], 'waits')\n"}}},
	{"a lapsed lease that is forgotten with those who waited", []edit{{"scripts.go", "latest - now + 500)", "latest - now)"}}},
	{"a lease that inherits those who waited", []edit{{"scripts.go", "	redis.call('HDEL', KEYS[2], 'waits')\n", ""}}},
	{"a fill that leaves the sign of those who waited", []edit{{"scripts.go", "	redis.call('HDEL', KEYS[2], 'load', 'until', 'claim', 'waits', 'failed', 'none')\n", "	redis.call('HDEL', KEYS[2], 'load', 'until', 'claim', 'failed', 'none')\n"}}},
	{"an invalidation that fails where publishing is forbidden", []edit{{"scripts.go", "redis.pcall('PUBLISH', channel, key)", "redis.call('PUBLISH', channel, key)"}}},
	{"one who waits and says so to nobody", []edit{{"scripts.go", "		if ARGV[9] ~= '' and waits ~= ARGV[9] then redis.pcall('HSET', KEYS[2], 'waits', ARGV[9]) end\n", ""}}},
	{"a message that wakes nobody", []edit{{"wake.go", "	w.missed = 0\n	w.wakeEach(w.waiting[key])\n", "	w.missed = 0\n"}}},
	{"one who waits for what was said before it could hear", []edit{{"wake.go", "	case x.told && w.missed < doubtful:", "	case w.live && w.missed < doubtful:"}}},
	{"a broken subscription that is relied on", []edit{{"wake.go", "	w.running, w.live = false, false\n", "	w.running = false\n"}}},
	{"a subscription that goes deaf", []edit{{"subscribe.go", "			if silent++; silent >= 2 {", "			if silent++; silent < 0 {"}}},
	{"go-redis left to mend what is broken", []edit{{"subscribe.go", "sub.ReceiveTimeout(ended, 0)", "sub.ReceiveTimeout(ctx, 0)"}}},
	{"ends that nobody tells of and everybody waits for", []edit{{"wake.go", "	case x.told && w.missed < doubtful:", "	case x.told:"}}},
	{"a subscription that is kept for ever", []edit{{"subscribe.go", "			if !w.wanted() {\n				return nil\n			}\n", ""}}},
	{"a refused subscription that is asked for again and again", []edit{{"wake.go", "		w.retry = time.Now().Add(refusedAfter)\n", ""}}},
	{"a Close that waits for a client that connects", []edit{{"subscribe.go", "	go receive(", "	receive("}}},
	{"one who waits on after a write in its own process", []edit{{"flight.go", "			delete(fs.byKey, key)\n			fl.f.wakes.wake(key)\n", "			delete(fs.byKey, key)\n"}}},

	// Reads that go together.
	{"a read that stays in its batch when its caller leaves", []edit{{"reads.go", "	case <-ctx.Done():\n		return found{}, context.Cause(ctx)\n", ""}}},
	{"a read that waits for its batch as long as it takes", []edit{{"reads.go", "if d := time.Until(deadline) / 2; d < b.left {", "if d := time.Until(deadline) / 2; d < 0 {"}}},
	{"a batch whose budget begins when it is sent", []edit{{"reads.go", "&budget{r.f.cfg.Timeout - time.Since(b.born)}", "&budget{r.f.cfg.Timeout}"}}},
	{"a batch without bounds", []edit{{"reads.go", "!ok && len(b.keys) >= min(maxBatch, max(1, batchBytes/max(1, r.mean)))", "false"}}},
	{"a key that is asked for once a reader", []edit{{"reads.go", "	i, ok := r.index[key]\n", "	i, ok := 0, false\n"}}},
	{"reads that fail where several keys may not be read at once", []edit{{"backend_redis.go", "	if isReply(err) {\n		return b.getEach(ctx, keys)\n	}\n	out := make", "	out := make"}}},

	// The near cache.
	{"near: a value kept although its key changed since it was asked for", []edit{{"near.go", " && t.changes == s.changes {", " {"}}},
	{"near: a value kept although changes went unheard since it was asked for", []edit{{"near.go", "	v := &nearValue{stored: stored{data: data}, live: t.live}\n", "	v := &nearValue{stored: stored{data: data}, live: n.live.Load()}\n"}, {"near.go", "t.live != 0 && t.live == n.live.Load()", "n.live.Load() != 0"}}},
	{"near: a process that does not drop what it has changed", []edit{{"deliver.go", "	f.near.drop(keys...) // what was asked for before now may be older\n", ""}}},
	{"near: an update that drops nothing before its write", []edit{{"deliver.go", "	f.near.drop(keys...)\n	return failed, err\n", "	return failed, err\n"}}},
	{"near: a change that Redis tells and nobody heeds", []edit{{"tracking.go", "			t.near.drop(key)\n", "			_ = key\n"}}},
	{"near: a flush that nobody heeds", []edit{{"tracking.go", "		t.near.forgetAll()\n", ""}}},
	{"near: a broken connection that drops nothing", []edit{{"tracking.go", "	all := t.allHeard()\n	t.near.dropAll(all)\n", "	all := t.allHeard()\n	if all && t.near.live.Load() == 0 {\n		t.near.dropAll(all)\n	}\n"}}},
	{"near: a silent connection that is trusted", []edit{{"tracking.go", "messages.ReceiveTimeout(within, trackingSilence)", "messages.ReceiveTimeout(context.WithoutCancel(within), time.Hour)"}}},
	{"near: values without a bound on their age", []edit{{"near.go", "*nearValue](nearMaxAge)", "*nearValue](time.Hour)"}}},

	// Trouble.
	{"a breaker that ignores time-outs", []edit{{"front.go", "		a.node.failure(err, weight)\n	}\n	if a.stores {", "		if !errors.Is(err, context.DeadlineExceeded) {\n			a.node.failure(err, weight)\n		}\n	}\n	if a.stores {"}}},
	{"a caller in a hurry that hurries others", []edit{{"aside.go", "		if !r.hasty {\n			fl.hurry()\n		}\n", "		fl.hurry()\n"}}},
	{"a loader that hangs and keeps its lease", []edit{{"flight.go", "		if longest > 0 && time.Since(begun) > longest+leaseTTL {", "		if _, _ = begun, longest; false {"}}},
	{"a refused invalidation that holds up others", []edit{{"deliver.go", "	if len(batch) > 1 && answered(err) {", "	if _ = err; false {"}}},
	{"an invalidation without scripts that lifts blocks", []edit{{"backend_redis.go", "			p.HDel(ctx, pairs[i+1], append(leaseFields, \"w:\"+block)...)\n", "			p.Del(ctx, pairs[i+1])\n"}}},
	{"an abandoned start that keeps the next one out", []edit{{"generation.go", "		gs.retire(g)\n		gs.f.later(func() { g.end(gs.f.newBudget()) })\n", "		gs.remove(g)\n		gs.f.later(func() { gs.retire(g); g.end(gs.f.newBudget()) })\n"}}},
	{"a silent node that is waited for", []edit{{"breaker.go", "		b.failure(errSilent, breakerOpens)\n", ""}}},
	{"too few replicas taken for enough", []edit{{"replicas.go", "			return nil, notReplicated{got, b.wait}\n", "			return nil, nil\n"}}},
	{"a breaker that counts callers' cancellations", []edit{{"front.go", "	if a.caller.Err() != nil {\n", "	if a.caller.Err() != nil {\n		a.node.failure(err, ordinaryFails)\n"}}},
	{"a breaker that never closes", []edit{{"breaker.go", "	b.open.Store(false)\n", ""}}},
	{"a budget for each command", []edit{{"front.go", "	b.left -= a.took\n", ""}}},
	{"a budget for each command on several nodes", []edit{{"front.go", "				b.left = min(b.left, own.left)\n", ""}}},
	{"a refusal to store taken for an outage", []edit{{"front.go", "	if replied {\n		a.node.success()\n	} else {\n		a.node.failure(err, weight)\n	}\n", "	a.node.failure(err, weight)\n"}}},
	{"a caller's deadline spent on Redis alone", []edit{{"front.go", "a.limit = min(a.limit, deadline.Sub(a.start)/2)", "a.limit = min(a.limit, deadline.Sub(a.start))"}}},

	// The queue.
	{"an invalidation that is lost when it fails", []edit{{"deliver.go", "	f.queue.add(failed)\n", ""}}},
	{"a queue that nobody delivers", []edit{{"deliver.go", "	f.deliver()\n	return nil\n", "	return nil\n"}, {"front.go", "onChange: f.deliver,", "onChange: func() {},"}}},
	{"an acknowledgement that removes a newer entry", []edit{{"queue.go", "if e == nil || e.seq != d.seq {", "if e == nil {"}}},
	{"a full queue that drops", []edit{{"queue.go", "			q.overflowed(key)\n			continue\n", "			continue\n"}}},
	{"an overflow that is trusted", []edit{{"queue.go", "return q.overflow != nil || q.entries[key] != nil", "return q.entries[key] != nil"}}},
	{"an overflow during a Clear that is forgotten with it", []edit{{"queue.go", "	if q.overflow != nil && q.dropped <= seq {", "	if q.overflow != nil {"}}},
	{"a Close that drops the queue", []edit{{"frontcache.go", "	left, overflowed := f.lastDelivery()\n", "	left, overflowed := 0, false\n"}}},

	// Clear.
	{"a Clear that leaves leases", []edit{{"clear.go", "				p.Eval(ctx, endLeaseSource, []string{lease}, key)\n", "				_ = key\n"}}},
	{"a Clear that takes values before leases", []edit{{"clear.go", "	err := scan(ctx, node, \"*lease*\", func(batch []string) error {", "	var err error\n	defer scan(ctx, node, \"*lease*\", func(batch []string) error {"}}},
	{"a Clear that lets running loads of this process be joined", []edit{{"frontcache.go", "	f.flights.detachAll() // who comes now does not wait for what began before\n", ""}}},
	{"a Clear that takes a prefix for a pattern", []edit{{"clear.go", "globEscape(prefix)+\"*\"", "prefix+\"*\""}}},

	// Generations.
	{"a generation that leaves the history stale", []edit{{"generation.go", "	_ = f.invalidate(g.ctx, budget, f.name(ChatMessages(g.chatID).String())) // queued at worst\n", ""}}},
	{"a generation whose cancel is not looked for", []edit{{"generation_poll.go", "				g.look(gs.f.closing)\n", ""}}},
	{"a generation whose key is not kept", []edit{{"generation_poll.go", "				g.beat(gs.f.closing)\n", ""}}},
	{"a generation that starts beside another", []edit{{"generation.go", "	case l.State == Present:\n		g.taken = true\n", ""}}},
	{"a generation that keeps its key", []edit{{"generation.go", "	if there {\n", "	if false {\n"}, {"generation.go", "	there := g.claimed", "	_ = g.claimed"}}},
	{"a generation cancelled by an older signal", []edit{{"generation.go", "	case stale.ok:\n		_ = gs.cache.Delete(ctx, signal)\n", "	case stale.ok:\n"}}},
}
