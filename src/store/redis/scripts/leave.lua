-- Leave at a deadline (rule 9): a lock that was handed over in that instant is kept, re-armed, with a fresh number.
-- Keys: 1 the lock, 2 its queue, 3 the fence counter. Arguments: 1 acquisition, 2 queue member, 3 lease in ms.
-- Answers {'taken', token}, not mine, or an error. Needs draw.lua and notmine.lua before it.
local held = redis.pcall('GET', KEYS[1])
redis.pcall('ZREM', KEYS[2], ARGV[2])
if held ~= ARGV[1] then return not_mine(held) end
local token, problem = draw(KEYS[3])
if not token then return problem end
local lease = math.max(tonumber(ARGV[3]), redis.call('PTTL', KEYS[1]))
redis.call('SET', KEYS[1], ARGV[1], 'PX', string.format('%.0f', lease))
return {'taken', token}
