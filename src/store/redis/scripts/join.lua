-- Join = re-check = retry: take the lock if it is free, mine, or an older attempt's of mine; otherwise queue.
-- Keys: 1 the lock, 2 its queue, 3 the fence counter.
-- Arguments: 1 owner id, 2 attempt, 3 lease in ms, 4 queue member, 5 place or 0, 6 '1' to queue or '0'.
-- Answers {'taken', token}, {'held', pttl}, {'queued', place, pttl, waiters}, {'unqueued', error}, {'foreign', pttl},
-- 'stale', or an error. Needs draw.lua before it.
local key, queue, counter = KEYS[1], KEYS[2], KEYS[3]
local owner, attempt, lease, member, place = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]

local function parse(held)
  local h = '[0-9a-f][0-9a-f][0-9a-f][0-9a-f]'
  local form = '^(' .. h .. h .. '%-' .. h .. '%-' .. h .. '%-' .. h .. '%-' .. h .. h .. h .. '):(%d+)$'
  return string.match(held, form)
end

local held = redis.pcall('GET', key)
if held then
  if type(held) ~= 'string' then
    if not string.find(held.err, 'WRONGTYPE', 1, true) then return held end
    return {'foreign', redis.call('PTTL', key)}
  end
  local pttl = redis.call('PTTL', key)
  local its_owner, its_attempt = parse(held)
  if not its_owner then return {'foreign', pttl} end
  if its_owner == owner then
    -- Compared as text: attempts may exceed what a Lua number holds exactly.
    if #its_attempt > #attempt or (#its_attempt == #attempt and its_attempt > attempt) then return 'stale' end
    if its_attempt == attempt then lease = math.max(lease, pttl) end
  else
    if ARGV[6] ~= '1' then return {'held', pttl} end
    -- The first write decides whether a script may write when memory is full; here it is one that takes memory, so
    -- that nothing is half done when the server refuses it.
    local problem
    if tonumber(place) < 1125899906842624 then
      place, problem = draw(counter)
    end
    if not problem then
      local added = redis.pcall('ZADD', queue, place, member)
      if type(added) ~= 'number' then problem = added end
    end
    if problem then
      if string.find(problem.err, 'OOM', 1, true) then return {'unqueued', problem.err} end
      return problem
    end
    local waiters = redis.call('ZCARD', queue)
    local life = math.ceil(3 * math.max(18750, 3.75 * waiters))
    if redis.call('PTTL', queue) < life then redis.call('PEXPIRE', queue, life) end
    return {'queued', place, pttl, waiters}
  end
end
-- Leaving the queue comes first: it frees memory, and so allows the writes that follow. The number comes before the
-- key: where it cannot be drawn, nothing is taken.
redis.pcall('ZREM', queue, member)
local token, problem = draw(counter)
if not token then return problem end
redis.call('SET', key, owner .. ':' .. attempt, 'PX', string.format('%.0f', lease))
return {'taken', token}
