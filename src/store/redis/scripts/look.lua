-- Look: does this server count in its quorum? On every new connection. Where it has lost its data (no counter, or another
-- process than the one that was admitted), it stops counting, and its delay begins.
-- Keys: 1 the fence counter, 2 the server's membership.
-- Arguments: 1 the longest lease in ms that the client uses, 2 since when the server does not count on whose behalf this is
-- asked, or 0.
-- Membership: run, the process that was admitted; seen, since, the process whose delay runs, and from when (µs); kept, the
-- counter that it had; blank, nothing was known of it; fresh, when it was admitted as one of which nothing was known, and
-- with, since when those of which nothing was known did not count then; lease, the longest in use (ms).
-- Answers {counts 1 or 0, counter or the one kept, lease, age of the delay in ms, since, blank or fresh: ms of its
-- process's life or since its admission, or -1, 1 where the server of argument 2 has not counted since before that
-- admission, or 0}, or an error.
local counter, membership = KEYS[1], KEYS[2]
local info = redis.call('INFO', 'server')
local run, uptime = string.match(info, 'run_id:(%x+)'), string.match(info, 'uptime_in_seconds:(%d+)')
if not run then return redis.error_reply('ERR INFO names no run_id') end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local text = function(n) return string.format('%.0f', n) end
local m = redis.call('HMGET', membership, 'run', 'seen', 'since', 'kept', 'blank', 'fresh', 'lease', 'with')
local lease = math.max(tonumber(m[7] or 0), tonumber(ARGV[1]))
if lease > tonumber(m[7] or 0) then redis.call('HSET', membership, 'lease', text(lease)) end
local value = tonumber(redis.call('GET', counter) or 0) or 0
local drawn = value >= 1125899906842624
if drawn and m[1] == run then
  local fresh = m[6] and text((now - m[6]) / 1000) or '-1'
  local knows = m[8] and string.find(' ' .. m[8] .. ' ', ' ' .. ARGV[2] .. ' ', 1, true)
  return {'1', text(value), text(lease), '0', '0', fresh, knows and '1' or '0'}
end
local since, kept, blank = tonumber(m[3] or 0), tonumber(m[4] or 0), m[5]
if drawn or m[2] ~= run then
  since = now
  if drawn then kept = math.max(kept, value) end
  -- Of one that was up for long and has no membership, nothing is known only if it has no counter either.
  blank = not drawn and (blank or not (m[1] or m[2]))
  redis.call('HSET', membership, 'seen', run, 'since', text(since), 'kept', text(kept))
  redis.call('HDEL', membership, 'blank', 'fresh', 'with')
  if blank then redis.call('HSET', membership, 'blank', '1') end
  redis.call('DEL', counter)
end
return {'0', text(kept), text(lease), text((now - since) / 1000), text(since), blank and text(uptime * 1000) or '-1', '0'}
