-- Admit: let a server of a quorum that had lost its data count again.
-- Keys: 1 the fence counter, 2 the server's membership.
-- Arguments: 1 the largest counter of the others, 2 the delay's beginning as it was seen before they were read, 3 how long
-- the delay must have run in ms, 4 the longest lease in ms, 5 '1' where nothing was known of it and of the others, else '0'; the rest: since when
-- those of which nothing is known do not count, as they said before this.
-- Answers 1, or 0 where it has lost its data again meanwhile, or the delay is not over.
local counter, membership = KEYS[1], KEYS[2]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local m = redis.call('HMGET', membership, 'run', 'seen', 'since', 'kept', 'lease')
local value = tonumber(redis.call('GET', counter) or 0) or 0
if value >= 1125899906842624 and m[1] == run then return '1' end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if m[2] ~= run or m[3] ~= ARGV[2] or (now - m[3]) / 1000 < tonumber(ARGV[3]) then return '0' end
local text = function(n) return string.format('%.0f', n) end
local lease = math.max(tonumber(m[5] or 0), tonumber(ARGV[4]))
redis.call('HSET', membership, 'run', run, 'lease', text(lease))
redis.call('HDEL', membership, 'seen', 'since', 'kept', 'blank', 'fresh', 'with')
if ARGV[5] == '1' then redis.call('HSET', membership, 'fresh', text(now), 'with', table.concat(ARGV, ' ', 6)) end
redis.call('SET', counter, text(math.max(tonumber(ARGV[1]), now, tonumber(m[4] or 0), 1125899906842624)))
return '1'
