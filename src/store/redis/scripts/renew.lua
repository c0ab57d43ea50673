-- Renew: lengthen the lease, never shorten it. It is written also where it stays as long: what waits for copies of it
-- (WAIT) waits for those of a write of its own connection. The first renewal after a hand-off confirms the claim: it leaves the
-- queue (rule 8).
-- Keys: 1 the lock, 2 its queue, or absent while a cluster moves the slot. Arguments: 1 acquisition, 2 queue member, 3 lease in ms.
-- Answers {'renewed', remaining ms} or not mine. Needs notmine.lua before it.
local held = redis.pcall('GET', KEYS[1])
if held ~= ARGV[1] then return not_mine(held) end
local lease = math.max(tonumber(ARGV[3]), redis.call('PTTL', KEYS[1]))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', lease))
if KEYS[2] then redis.pcall('ZREM', KEYS[2], ARGV[2]) end
return {'renewed', lease}
