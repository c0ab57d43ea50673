-- Confirm: lift the fence counter to the token that a majority has drawn, if the lock is this acquisition's (of a quorum).
-- Keys: 1 the lock, 2 its queue, 3 the fence counter. Arguments: 1 acquisition, 2 token.
-- Answers 'confirmed', not mine, or an error. Needs notmine.lua before it.
local held = redis.pcall('GET', KEYS[1])
if held ~= ARGV[1] then return not_mine(held) end
local value = redis.call('GET', KEYS[3]) or '0'
if not tonumber(value) then return redis.error_reply('ERR value is not an integer or out of range (' .. KEYS[3] .. ')') end
if tonumber(value) < tonumber(ARGV[2]) then redis.call('SET', KEYS[3], ARGV[2]) end
return 'confirmed'
