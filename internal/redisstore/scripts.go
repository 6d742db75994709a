package redisstore

import "github.com/redis/go-redis/v9"

// The scripts of the Redis backend. KEYS are pairs of a value key and its lease
// key. A lease key is a hash:
//
//	load   the token of the reader's lease    until  its deadline, which differs after
//	       each renewal
//	claim  the value, when the lease is a claim
//	waits  the channel on which those who wait for the lease want to hear of its end
//	failed the token of a lease that was released without a value, and its deadline
//	none   the deadline of the not-found marker
//	w:…    a writer's block, named by its token, and its deadline
//
// Deadlines are milliseconds of Redis's own clock, each with the milliseconds that it
// was set for: each field ends by itself, and the whole hash half a second after the
// last of them: when a lease has lapsed that others wait for, the next one to be
// granted tells them that it is another's now. A deadline that is further away than it
// was set for dates from before the clock was set back, or from a master whose clock
// was ahead: the first script that sees it sets it again, to the same time from now.
//
// A Redis that is out of memory refuses a script's first write when it is one that
// needs memory, and none after a first write that does not. So scripts that
// invalidate delete before they set anything, and always go through; scripts that
// store set before they delete, and do not. They run on Redis 6.2 and later, Valkey
// and miniredis.

// script makes a script whose first line is its name, for who reads what Redis is
// sent: in MONITOR, in SLOWLOG, in a trace.
func script(name, text string) *redis.Script { return redis.NewScript("-- " + name + "\n" + text) }

const luaNow = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
`

// luaWake tells those who wait for a lease that it has ended: see wakes. A user who
// may not publish ends leases all the same.
const luaWake = `
local function wake(channel, key)
	if type(channel) == 'string' then redis.pcall('PUBLISH', channel, key) end
end
`

// luaUntil makes the deadline that is so far away.
const luaUntil = luaNow + `
local function untilAfter(ttl) return string.format('%.0f %.0f', now + ttl, ttl) end
`

// luaReplaced lists keys of other types, which the script removes, and their types.
const luaReplaced = `
local replaced = {}
local function replaces(key, own)
	local kind = redis.pcall('TYPE', key).ok
	if kind and kind ~= own and kind ~= 'none' then
		replaced[#replaced + 1] = key
		replaced[#replaced + 1] = kind
	end
end
`

// luaLive reads KEYS[2] into live, less the fields whose time is over, which are in
// dead for leaseScript to remove: they must not be its first write. A key of another
// type there holds no lease.
const luaLive = luaWake + luaUntil + `
local live, dead, blocked, latest, setBack = {}, {}, false, 0, false
local all = redis.pcall('HGETALL', KEYS[2])
local foreign = all.err
if foreign then all = {} end
for i = 1, #all, 2 do live[all[i]] = all[i + 1] end
local waits = live['waits']
local function keep(field)
	local text, deadline, ttl = string.match(live[field] or '', '^(.-)(%d+) (%d+)$')
	deadline, ttl = tonumber(deadline) or 0, tonumber(ttl) or 0
	if deadline > now + ttl then
		deadline, setBack = now + ttl, true
		live[field] = text .. untilAfter(ttl)
		redis.pcall('HSET', KEYS[2], field, live[field])
	end
	if deadline > now then
		if deadline > latest then latest = deadline end
		return true
	end
	dead[#dead + 1] = field
	live[field] = nil
	return false
end
if live['load'] and not keep('until') then
	dead[#dead + 1] = 'load'
	dead[#dead + 1] = 'claim'
	live['load'], live['claim'] = nil, nil
end
for i = 1, #all, 2 do
	if string.sub(all[i], 1, 2) == 'w:' and keep(all[i]) then blocked = true end
end
if live['none'] then keep('none') end
if live['failed'] then keep('failed') end
local function lasts(ttl)
	if now + ttl > latest then latest = now + ttl end
	redis.call('PEXPIRE', KEYS[2], latest - now + 500)
end
`

// luaDrop invalidates KEYS[i], KEYS[i+1].
const luaDrop = luaWake + luaReplaced + `
local function failed(reply) return type(reply) == 'table' and reply.err end
local function endLease(i)
	local waits = redis.pcall('HGET', KEYS[i + 1], 'waits')
	if failed(redis.pcall('HDEL', KEYS[i + 1], 'load', 'until', 'claim', 'waits', 'failed', 'none')) then
		replaces(KEYS[i + 1], 'hash')
		redis.call('DEL', KEYS[i + 1])
	end
	wake(waits, KEYS[i])
end
local function drop(i)
	replaces(KEYS[i], 'string')
	redis.call('UNLINK', KEYS[i])
	endLease(i)
end
`

var (
	// leaseScript: ARGV ttl, nonce, waited, has bad, bad, has claim, claim, owner,
	// the channel to hear of the end of another's lease on, if any, the deadline of
	// the lease waited for when its time is over by the waiter's clock. The answer is a
	// state, a token or value, the deadline of another's lease, and what was replaced.
	// The token carries the time, so a command that a client library sends twice
	// does not make the same one twice.
	leaseScript = script("lease", luaLive+luaReplaced+`
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'table' and value.err then
	replaces(KEYS[1], 'string')
	redis.call('UNLINK', KEYS[1])
	value = false
end
local removed = value and ARGV[4] == '1' and value == ARGV[5]
if removed then
	redis.call('UNLINK', KEYS[1])
	value = false
end
local claim = ARGV[6] == '1'
if setBack and value and live['claim'] and live['load'] then
	redis.call('PEXPIRE', KEYS[1], string.match(live['until'], '%d+$'))
end
local function answer(state, text, deadline) return {state, text, deadline or '', unpack(replaced)} end
if value and claim and live['claim'] and live['load'] == ARGV[8] then return answer('granted', ARGV[8]) end
if value then return answer('present', value) end
if claim and ARGV[4] == '1' and not removed then return answer('absent', '') end
if not claim then
	if live['none'] then return answer('absent', '') end
	if blocked then return answer('writing', '') end
	local over = ARGV[10] ~= '' and live['load'] == ARGV[3] and live['until'] == ARGV[10] and not live['claim']
	if live['load'] and not over then
		if ARGV[3] ~= '' and live['failed'] and string.match(live['failed'], '^(.*) %d+ %d+$') == ARGV[3] then
			return answer('unleased', '')
		end
		if ARGV[9] ~= '' and waits ~= ARGV[9] then redis.pcall('HSET', KEYS[2], 'waits', ARGV[9]) end
		return answer('loading', live['load'], live['until'])
	end
end
if foreign then
	replaces(KEYS[2], 'hash')
	redis.call('DEL', KEYS[2])
end
local token = ARGV[2] .. '.' .. t[1] .. '.' .. t[2]
if claim then token = ARGV[8] end
local ttl = tonumber(ARGV[1])
redis.call('HSET', KEYS[2], 'load', token, 'until', untilAfter(ttl))
for _, field in ipairs(dead) do
	if field ~= 'load' and field ~= 'until' then redis.call('HDEL', KEYS[2], field) end
end
if claim then
	redis.call('HSET', KEYS[2], 'claim', ARGV[7])
else
	redis.call('HDEL', KEYS[2], 'claim')
end
lasts(ttl)
if claim then redis.call('SET', KEYS[1], ARGV[7], 'PX', ARGV[1]) end
if waits then
	redis.call('HDEL', KEYS[2], 'waits')
	wake(waits, KEYS[1])
end
return answer('granted', token)
`)

	// extendScript: ARGV token, ttl.
	extendScript = script("extend", luaLive+`
local ttl = tonumber(ARGV[2])
if live['w:' .. ARGV[1]] then
	redis.call('HSET', KEYS[2], 'w:' .. ARGV[1], untilAfter(ttl))
elseif live['load'] == ARGV[1] then
	if live['claim'] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) == 0 then return 0 end
	redis.call('HSET', KEYS[2], 'until', untilAfter(ttl))
else
	return 0
end
lasts(ttl)
return 1
`)

	// fillScript: ARGV token, ttl, not found, value.
	fillScript = script("fill", luaLive+`
if live['load'] ~= ARGV[1] then return 0 end
if ARGV[3] == '1' then
	local ttl = tonumber(ARGV[2])
	redis.call('HSET', KEYS[2], 'none', untilAfter(ttl))
	redis.call('HDEL', KEYS[2], 'load', 'until', 'claim', 'waits', 'failed')
	lasts(ttl)
else
	redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[2])
	redis.call('HDEL', KEYS[2], 'load', 'until', 'claim', 'waits', 'failed', 'none')
end
wake(waits, KEYS[1])
return 1
`)

	// releaseScript: ARGV token, ttl of the failed mark.
	releaseScript = script("release", luaLive+`
if live['load'] ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[2], 'load', 'until', 'claim', 'waits')
if live['claim'] then
	if redis.pcall('GET', KEYS[1]) == live['claim'] then redis.call('UNLINK', KEYS[1]) end
else
	local ttl = tonumber(ARGV[2])
	redis.call('HSET', KEYS[2], 'failed', ARGV[1] .. ' ' .. untilAfter(ttl))
	lasts(ttl)
end
wake(waits, KEYS[1])
return 1
`)

	// setScript: ARGV ttl, value.
	setScript = script("set", luaDrop+`
replaces(KEYS[1], 'string')
local set = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
if failed(set) then
	drop(1)
	return set
end
endLease(1)
return replaced
`)

	deleteScript = script("delete", luaDrop+`
for i = 1, #KEYS, 2 do drop(i) end
return replaced
`)

	// blockScript: ARGV token, ttl.
	blockScript = script("block", luaDrop+luaUntil+`
for i = 1, #KEYS, 2 do drop(i) end
local deadline = untilAfter(tonumber(ARGV[2]))
for i = 1, #KEYS, 2 do
	redis.call('HSET', KEYS[i + 1], 'w:' .. ARGV[1], deadline)
	if redis.call('PTTL', KEYS[i + 1]) < tonumber(ARGV[2]) then
		redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])
	end
end
return replaced
`)

	// unblockScript: ARGV token.
	unblockScript = script("unblock", luaDrop+`
for i = 1, #KEYS, 2 do
	drop(i)
	redis.call('HDEL', KEYS[i + 1], 'w:' .. ARGV[1])
end
return replaced
`)
)

// leaseFields are those that an invalidation removes from a lease key. Blocks stay.
var leaseFields = []string{"load", "until", "claim", "waits", "failed", "none"}

// luaClaimed tells whether a lease key holds a claim that has not ended. It takes no
// right that a lease request does not.
const luaClaimed = `
local function claimed(key)
	local lease, has = redis.pcall('HGETALL', key), {}
	if lease.err then return false end
	for i = 1, #lease, 2 do has[lease[i]] = lease[i + 1] end
	return has['claim'] and (tonumber(string.match(has['until'] or '', '^%d+')) or 0) > now
end
`

// clearSource removes the values KEYS[i], whose lease keys are KEYS[i+1], for Clear.
const clearSource = "-- clear" + luaNow + luaClaimed + `
for i = 1, #KEYS, 2 do
	if not claimed(KEYS[i + 1]) then redis.call('UNLINK', KEYS[i]) end
end
return 1
`

// endLeaseSource ends the lease in KEYS[1], that of the key ARGV[1], for Clear.
// Blocks stay, and claims. It is text, since a pipeline can not fall back from a
// digest that Redis does not know.
const endLeaseSource = "-- end lease" + luaNow + luaClaimed + luaWake + `
if claimed(KEYS[1]) then return 0 end
local waits = redis.pcall('HGET', KEYS[1], 'waits')
local reply = redis.pcall('HDEL', KEYS[1], 'load', 'until', 'claim', 'waits', 'failed', 'none')
if type(reply) == 'table' and reply.err then redis.call('DEL', KEYS[1]) end
wake(waits, ARGV[1])
return 1
`
