-- Back: give the lock up without a hand-off, and leave the queue (of a quorum).
-- Keys: 1 the lock, 2 its queue. Arguments: 1 acquisition, 2 queue member.
-- Answers 'released' or not mine. Needs notmine.lua before it.
redis.pcall('ZREM', KEYS[2], ARGV[2])
local held = redis.pcall('GET', KEYS[1])
if held ~= ARGV[1] then return not_mine(held) end
redis.call('DEL', KEYS[1])
return 'released'
