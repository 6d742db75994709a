package redisstore

import "github.com/redis/go-redis/v9"

// The scripts of the Redis backend. KEYS are a value key, its lease key and, for scripts
// that read or set blocks, its block key. A lease key is a string with the state
// of its key, and expires by Redis's own clock:
//
//	load TOKEN TTL N FAILED CHANNEL
//		A reader's lease. TTL is its milliseconds from the last renewal, N the number of
//		renewals. FAILED is the token of the lease before it if that was released without
//		a value, else "-". CHANNEL is there if waiters want to hear of the lease's end.
//	claim TTL N LENGTH OWNER VALUE
//		A claim. OWNER has LENGTH bytes, and the claimed VALUE follows without a blank.
//	load TOKEN TTL N at:END:LEFT:LENGTH:FAILURES CHANNEL
//		The lease of a refresh, which may replace only the value that has LENGTH bytes
//		and expires at END, which was LEFT milliseconds away; -1 is never. FAILURES is
//		how many refreshes in a row have failed before. "on:" in place of "at:" says
//		that the value is fresh.
//	failed TOKEN TTL
//		A lease was released without a value.
//	failed TOKEN TTL FAILURES
//		A refresh was released without a value. No other is granted for half of TTL.
//	none TTL
//		The not-found marker.
//	fresh TTL
//		The value is fresh.
//
// A block key is a hash that exists only while writes run. For the token of each block it
// has the block's deadline, in milliseconds of Redis's own clock, and the milliseconds that
// the block was set for.
//
// A key that expires later than its TTL says dates from before the clock was set back, or
// from a master whose clock was ahead. The first script that sees it sets its expiry to TTL
// from now.
//
// A Redis that is out of memory refuses a script's first write if that needs memory, and
// refuses none after a first write that does not. So scripts that invalidate delete before
// they set anything, and always succeed; scripts that store set before they delete, and fail
// without a change. The scripts run on Redis 6.0 and later, Valkey and miniredis.
//
// Their common case is a few native commands at the top, as each further line costs Redis
// time in which it serves no other client. Commands that the user may lack the right to, or
// that may meet a key of another type, are sent by pcall.

// script returns a script whose first line is its name, for readers of MONITOR, SLOWLOG and
// traces.
func script(name, text string) *redis.Script { return redis.NewScript("-- " + name + "\n" + text) }

// luaClock defines now, in milliseconds, and untilAfter(ttl), the text of a block's deadline.
const luaClock = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function untilAfter(ttl) return string.format('%.0f %.0f', now + ttl, ttl) end
`

// luaBlocks defines stands(key, token, text), whether a block with this text stands. It
// sets a block again that dates from before the clock was set back.
const luaBlocks = luaClock + `
local function stands(key, token, text)
	local deadline, ttl = string.match(text or '', '^(%d+) (%d+)$')
	deadline, ttl = tonumber(deadline) or 0, tonumber(ttl) or 0
	if deadline > now + ttl then redis.pcall('HSET', key, token, untilAfter(ttl)) end
	return deadline > now
end
`

// luaLasts defines lasts(key, ttl), which makes a key expire after ttl at the latest.
const luaLasts = `
local function lasts(key, ttl)
	local left = redis.call('PTTL', key)
	if left == -1 or left > tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end
`

// luaWake defines wake(lease, key), which announces the end of a lease on the channel that
// its text names, if any (see Store.Listen). A user without the right to publish ends leases
// all the same.
const luaWake = `
local function wake(lease, key)
	local channel = string.match(lease, '^load %S+ %d+ %d+ %S+ (.+)$')
	if channel then redis.pcall('PUBLISH', channel, key) end
end
`

// luaReplaced defines replaces(key, own), whether key has another type than own. It then adds
// key and its type to replaced, a list for the script's answer; the script removes the key.
const luaReplaced = `
local replaced = {}
local function replaces(key, own)
	local kind = redis.pcall('TYPE', key).ok
	local other = kind and kind ~= own and kind ~= 'none'
	if other then
		replaced[#replaced + 1] = key
		replaced[#replaced + 1] = kind
	end
	return other
end
`

// luaValue defines valueBut(bad), which returns the value of KEYS[1]. It removes a key of
// another type, and the value bad, which did not decode, and returns no value then, and
// whether it has removed bad. answer(state, text, deadline) is the answer of a lease script.
const luaValue = luaReplaced + `
local function valueBut(bad)
	local value = redis.pcall('GET', KEYS[1])
	if type(value) == 'table' then
		replaces(KEYS[1], 'string')
	elseif not value or value ~= bad then
		return value, false
	end
	redis.call('UNLINK', KEYS[1])
	return false, value == bad
end
local function answer(state, text, deadline) return {state, text, deadline or '', unpack(replaced)} end
`

// luaSeen defines seen(now), which returns when the value of KEYS[1] expires, its length and
// the time it has left, or nil without a value. A value that is stored in its place differs
// in one of the first two. For a user without the right to STRLEN, the value itself is read.
const luaSeen = `
local function seen(now)
	local left, length = redis.call('PTTL', KEYS[1]), redis.pcall('STRLEN', KEYS[1])
	if type(length) == 'table' then
		local value = redis.pcall('GET', KEYS[1])
		length = type(value) == 'string' and #value
	end
	if left == -2 or type(length) ~= 'number' then return nil end
	return left < 0 and -1 or now + left, length, left
end
`

// luaClaim defines leaseOf(key), which returns the text of a lease key and whether the key
// has another type; and claimOf and claimed, which read and make the text of a claim.
const luaClaim = `
local function claimOf(lease)
	local ttl, n, length, rest = string.match(lease, '^claim (%d+) (%d+) (%d+) (.*)$')
	length = tonumber(length)
	if ttl then return string.sub(rest, 1, length), string.sub(rest, length + 1), ttl, n end
end
local function claimed(owner, value, ttl, n)
	return 'claim ' .. ttl .. ' ' .. n .. ' ' .. #owner .. ' ' .. owner .. value
end
local function leaseOf(key)
	local lease = redis.pcall('GET', key)
	return type(lease) == 'string' and lease or '', type(lease) == 'table'
end
`

// luaDrop defines drop(i), which invalidates KEYS[i], whose lease key is KEYS[i+1], and
// endLease(i), which only ends the lease.
const luaDrop = luaWake + luaReplaced + `
local function endLease(i)
	local lease = redis.pcall('GET', KEYS[i + 1])
	if not lease then return end
	if type(lease) == 'table' then replaces(KEYS[i + 1], 'string') end
	redis.call('DEL', KEYS[i + 1])
	if type(lease) == 'string' then wake(lease, KEYS[i]) end
end
local function drop(i)
	replaces(KEYS[i], 'string')
	redis.call('UNLINK', KEYS[i])
	endLease(i)
end
`

var (
	// leaseScript: ARGV ttl, nonce, the token of the lease waited for, the channel to
	// announce the end of another's lease on, the deadline of the lease waited for if that
	// is overdue, and the value that did not decode. Those after nonce may be "", and the
	// last one is left out when there is none. The answer is a state, a token or value, the
	// deadline of another's lease, and the keys replaced.
	//
	// The token carries the time, so that a request that a client library sends twice makes
	// two tokens. A lease that has lapsed took its waiters' channel with it: the first waiter
	// that is granted a lease after it announces that to the others.
	leaseScript = script("lease", `
local value = redis.pcall('GET', KEYS[1])
local function newLease(failed, ...)
	local t = redis.call('TIME')
	local token = ARGV[2] .. '.' .. t[1] .. '.' .. t[2]
	return redis.call('SET', KEYS[2], 'load ' .. token .. ' ' .. ARGV[1] .. ' 0 ' .. failed, 'PX', ARGV[1], ...) and token
end
if not value and #redis.pcall('HGETALL', KEYS[3]) == 0 then
	local token = newLease('-', 'NX')
	if token then
		if ARGV[3] ~= '' and ARGV[4] ~= '' then redis.pcall('PUBLISH', ARGV[4], KEYS[1]) end
		return {'granted', token}
	end
end
`+luaWake+luaValue+luaClaim+luaLasts+luaBlocks+`
if value then
	value = valueBut(ARGV[6])
	if value then return answer('present', value) end
end
local lease, foreign = leaseOf(KEYS[2])
local marker = string.match(lease, '^none (%d+)$')
if marker then
	lasts(KEYS[2], marker)
	return answer('absent', '')
end
local blocks, blocked = redis.pcall('HGETALL', KEYS[3]), false
for i = 1, #blocks, 2 do
	if stands(KEYS[3], blocks[i], blocks[i + 1]) then blocked = true end
end
if blocked then return answer('writing', '') end
local owner, _, claimTTL, claimN = claimOf(lease)
if owner then
	lasts(KEYS[2], claimTTL)
	return answer('loading', owner, claimN .. ' ' .. claimTTL)
end
local token, ttl, n, failed, channel = string.match(lease, '^load (%S+) (%d+) (%d+) (%S+) ?(.*)$')
if token and not (token == ARGV[3] and n .. ' ' .. ttl == ARGV[5]) then
	if failed == ARGV[3] then return answer('unleased', '') end
	lasts(KEYS[2], ttl)
	if ARGV[4] ~= '' and ARGV[4] ~= channel then
		redis.pcall('SET', KEYS[2], 'load ' .. token .. ' ' .. ttl .. ' ' .. n .. ' ' .. failed .. ' ' .. ARGV[4], 'KEEPTTL')
	end
	return answer('loading', token, n .. ' ' .. ttl)
end
failed = string.match(lease, '^failed (%S+) ')
if foreign or lease ~= '' and not token and not failed and not string.match(lease, '^fresh ') then replaces(KEYS[2]) end
token = newLease(failed or '-')
wake(lease, KEYS[1])
return answer('granted', token)
`)

	// refreshScript: ARGV ttl, nonce, the channel to announce the end of another's lease on
	// or "", Over and Within of backend.Refresh, and its Always. The answer is leaseScript's.
	// The value stays in any case.
	refreshScript = script("refresh", luaWake+luaReplaced+luaClaim+luaLasts+luaBlocks+luaSeen+`
local ends, length, left = seen(now)
local always = ARGV[6] == '1'
if not ends and not always then return {'gone', ''} end
local lease, foreign = leaseOf(KEYS[2])
local token, ttl, n, failed, channel = string.match(lease, '^load (%S+) (%d+) (%d+) (%S+) ?(.*)$')
if token then
	lasts(KEYS[2], ttl)
	if ARGV[3] ~= '' and ARGV[3] ~= channel then
		redis.pcall('SET', KEYS[2], 'load ' .. token .. ' ' .. ttl .. ' ' .. n .. ' ' .. failed .. ' ' .. ARGV[3], 'KEEPTTL')
	end
	return {'loading', token, n .. ' ' .. ttl}
end
if claimOf(lease) then return {'loading', ''} end
local freshFor = string.match(lease, '^fresh (%d+)$')
if freshFor and not always then
	lasts(KEYS[2], freshFor)
	return {'marked', ''}
end
local blocks = redis.pcall('HGETALL', KEYS[3])
for i = 1, #blocks, 2 do
	if stands(KEYS[3], blocks[i], blocks[i + 1]) then return {'writing', ''} end
end
local failures = 0
ttl, n = string.match(lease, '^failed %S+ (%d+) (%d+)$')
if ttl and not always then
	lasts(KEYS[2], ttl)
	if redis.call('PTTL', KEYS[2]) > tonumber(ttl) / 2 then return {'loading', ''} end
	failures = tonumber(n)
end
if not always and left > tonumber(ARGV[4]) and left <= tonumber(ARGV[5]) then
	freshFor = string.format('%.0f', left - tonumber(ARGV[4]))
	redis.call('SET', KEYS[2], 'fresh ' .. freshFor, 'PX', freshFor)
	return {'marked', ''}
end
if foreign then replaces(KEYS[2], 'string') end
token = ARGV[2] .. '.' .. t[1] .. '.' .. t[2]
local seenThen = string.match(lease, '^failed (%S+) ') or '-' -- without a value, as in leaseScript
if ends then seenThen = string.format('%s:%.0f:%.0f:%d:%d', freshFor and 'on' or 'at', ends, left, length, failures) end
redis.call('SET', KEYS[2], 'load ' .. token .. ' ' .. ARGV[1] .. ' 0 ' .. seenThen, 'PX', ARGV[1])
wake(lease, KEYS[1])
return {'granted', token, '', unpack(replaced)}
`)

	// claimScript: ARGV ttl, claim, owner, and the value that did not decode, if there is
	// one: the claim is then granted only in its place. The answer is leaseScript's.
	claimScript = script("claim", luaWake+luaValue+luaClaim+luaLasts+`
local value, removed = valueBut(ARGV[4])
local lease, foreign = leaseOf(KEYS[2])
local owner, stored, ttl = claimOf(lease)
if owner and value == stored then -- no other program has overwritten it
	lasts(KEYS[2], ttl)
	lasts(KEYS[1], ttl)
	if owner == ARGV[3] then return answer('granted', owner) end
end
if value then return answer('present', value) end
if ARGV[4] and not removed then return answer('absent', '') end
if foreign then replaces(KEYS[2], 'string') end
redis.call('SET', KEYS[2], claimed(ARGV[3], ARGV[2], ARGV[1], 0), 'PX', ARGV[1])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
wake(lease, KEYS[1])
return answer('granted', ARGV[3])
`)

	// extendScript: ARGV token, ttl. KEYS are in threes. It extends leases, claims and blocks
	// alike, each that has not ended. The answer is 1 when none has, else 0.
	extendScript = script("extend", luaClaim+luaBlocks+`
local function extend(key, leaseKey, blockKey)
	local lease = leaseOf(leaseKey)
	local token, n, rest = string.match(lease, '^load (%S+) %d+ (%d+) (.*)$')
	if token == ARGV[1] then
		redis.call('SET', leaseKey, 'load ' .. token .. ' ' .. ARGV[2] .. ' ' .. n + 1 .. ' ' .. rest, 'PX', ARGV[2])
		return true
	end
	local owner, value, _, claimN = claimOf(lease)
	if owner == ARGV[1] then
		if redis.pcall('GET', key) ~= value then return false end
		redis.call('PEXPIRE', key, ARGV[2])
		redis.call('SET', leaseKey, claimed(owner, value, ARGV[2], claimN + 1), 'PX', ARGV[2])
		return true
	end
	local block = redis.pcall('HGET', blockKey, ARGV[1])
	if type(block) ~= 'string' or not stands(blockKey, ARGV[1], block) then return false end
	redis.call('HSET', blockKey, ARGV[1], untilAfter(tonumber(ARGV[2])))
	if redis.call('PTTL', blockKey) < tonumber(ARGV[2]) then redis.call('PEXPIRE', blockKey, ARGV[2]) end
	return true
end
local held = 1
for i = 1, #KEYS, 3 do
	if not extend(KEYS[i], KEYS[i + 1], KEYS[i + 2]) then held = 0 end
end
return held
`)

	// fillScript: ARGV token, ttl, whether it is not found, value, and how long the value is
	// marked as fresh, 0 for no mark. The answer is 1 if it has stored the value.
	//
	// A refresh stores only over the value that it was granted for, or after that has
	// expired. A value that another program has stored meanwhile is newer, and so is a
	// deletion: the lease then ends without a change.
	fillScript = script("fill", luaWake+luaSeen+`
local lease, held = redis.pcall('GET', KEYS[2]), 'load ' .. ARGV[1] .. ' '
if type(lease) ~= 'string' or string.sub(lease, 1, #held) ~= held then return 0 end
local was, had, size = string.match(lease, '^load %S+ %d+ %d+ %a%a:(%-?%d+):(%-?%d+):(%d+):')
if was then
	local t = redis.call('TIME')
	local now = t[1] * 1000 + math.floor(t[2] / 1000)
	local ends, length, left = seen(now)
	was = tonumber(was)
	local other = ends and (length ~= tonumber(size) or math.abs(ends - was) > 2 and left ~= tonumber(had)) -- in miniredis, LEFT stands still
	if other or not ends and (was < 0 or now + 2 < was) then
		redis.call('DEL', KEYS[2])
		wake(lease, KEYS[1])
		return 0
	end
end
if ARGV[3] == '1' then
	if was then redis.call('UNLINK', KEYS[1]) end
	if ARGV[2] == '0' then
		redis.call('DEL', KEYS[2])
	else
		redis.call('SET', KEYS[2], 'none ' .. ARGV[2], 'PX', ARGV[2])
	end
else
	redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[2])
	if ARGV[5] == '0' then
		redis.call('DEL', KEYS[2])
	else
		redis.call('SET', KEYS[2], 'fresh ' .. ARGV[5], 'PX', ARGV[5])
	end
end
wake(lease, KEYS[1])
return 1
`)

	// releaseScript: ARGV token, the ttl of the failed mark, and the longest cool-down of
	// refreshes. The mark of a refresh lasts for twice its cool-down: within the second half
	// another refresh is granted, and the mark still has the number of failures.
	releaseScript = script("release", luaWake+luaClaim+`
local lease = leaseOf(KEYS[2])
local owner, value = claimOf(lease)
if owner == ARGV[1] then
	redis.call('DEL', KEYS[2])
	if redis.pcall('GET', KEYS[1]) == value then redis.call('UNLINK', KEYS[1]) end
	return 1
end
local token, failures = string.match(lease, '^load (%S+) %d+ %d+ (%S+)')
if token ~= ARGV[1] then return 0 end
local isFresh, ttl, mark = string.match(failures, '^on:'), ARGV[2], ''
failures = string.match(failures, '^at:.*:(%d+)$')
if failures then
	ttl = string.format('%.0f', 2 * math.min(tonumber(ttl) * 2 ^ tonumber(failures), tonumber(ARGV[3])))
	mark = string.format(' %d', tonumber(failures) + 1)
end
redis.call('DEL', KEYS[2])
if not isFresh then redis.call('SET', KEYS[2], 'failed ' .. token .. ' ' .. ttl .. mark, 'PX', ttl) end
wake(lease, KEYS[1])
return 1
`)

	// setScript: ARGV ttl, value. When Redis refuses to store the value, the key is
	// invalidated, and the answer is the error. Else it is the keys replaced, as for the
	// scripts that invalidate.
	setScript = script("set", luaDrop+`
replaces(KEYS[1], 'string')
local set = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
if set.err then
	drop(1)
	return set
end
endLease(1)
return replaced
`)

	// deleteScript: no ARGV. KEYS are in pairs.
	deleteScript = script("delete", luaDrop+`
for i = 1, #KEYS, 2 do drop(i) end
return replaced
`)

	// blockScript: ARGV token, ttl. KEYS are in threes. All keys are invalidated before the
	// first block is set, which may fail for lack of memory.
	blockScript = script("block", luaDrop+luaClock+`
for i = 1, #KEYS, 3 do drop(i) end
local deadline = untilAfter(tonumber(ARGV[2]))
for i = 3, #KEYS, 3 do
	local set = redis.pcall('HSET', KEYS[i], ARGV[1], deadline)
	if type(set) == 'table' then
		if not replaces(KEYS[i], 'hash') then return set end
		redis.call('DEL', KEYS[i])
		redis.call('HSET', KEYS[i], ARGV[1], deadline)
	end
	if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
end
return replaced
`)

	// unblockScript: ARGV token. KEYS are in threes.
	unblockScript = script("unblock", luaDrop+`
for i = 1, #KEYS, 3 do
	drop(i)
	redis.pcall('HDEL', KEYS[i + 2], ARGV[1])
end
return replaced
`)
)

// luaIsClaim defines isClaim(lease), whether the answer to a GET of a lease key is a claim.
const luaIsClaim = `
local function isClaim(lease) return type(lease) == 'string' and string.sub(lease, 1, 6) == 'claim ' end
`

// clearSource removes the values KEYS[i], whose lease keys are KEYS[i+1], for Clear. Values of
// claims stay.
const clearSource = "-- clear" + luaIsClaim + `
for i = 1, #KEYS, 2 do
	if not isClaim(redis.pcall('GET', KEYS[i + 1])) then redis.call('UNLINK', KEYS[i]) end
end
return 1
`

// endLeaseSource ends the lease in KEYS[1], that of the key ARGV[1], for Clear. Claims stay.
// Like clearSource it is a text for EVAL, since Clear's pipelines could not send a script
// again whose digest Redis does not know.
const endLeaseSource = "-- end lease" + luaIsClaim + luaWake + `
local lease = redis.pcall('GET', KEYS[1])
if isClaim(lease) then return 0 end
redis.call('DEL', KEYS[1])
if type(lease) == 'string' then wake(lease, ARGV[1]) end
return 1
`
