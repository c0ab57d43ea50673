-- Renew: lengthen the lease, never shorten it. The first renewal after a hand-off confirms the claim: it leaves the
-- queue (rule 8).
-- Keys: 1 the lock, 2 its queue, or absent while a cluster moves the slot. Arguments: 1 acquisition, 2 queue member, 3 lease in ms.
-- Answers {'renewed', remaining ms} or not mine. Needs notmine.lua before it.
local held = redis.pcall('GET', KEYS[1])
if held ~= ARGV[1] then return not_mine(held) end
local lease, pttl = tonumber(ARGV[3]), redis.call('PTTL', KEYS[1])
if pttl < lease then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  pttl = lease
end
if KEYS[2] then redis.pcall('ZREM', KEYS[2], ARGV[2]) end
return {'renewed', pttl}
