-- Release = hand-off: give the lock to the first live waiter, or free it (rules 7 and 8).
-- Keys: 1 the lock, 2 its queue, 3 the fence counter.
-- Arguments: 1 acquisition, 2 queue member (it ends in the own channel), 3 'leave' to leave the queue where not mine,
-- else absent. Few, because each costs the server time.
-- Answers 'released', {'next', acquisition, token} (a waiter of the own channel: no message is sent), 'again' (dead
-- waiters were dropped, more are queued, the lock is still mine) or not mine. Needs draw.lua and notmine.lua before it.
local key, queue, counter = KEYS[1], KEYS[2], KEYS[3]
local acquisition, member = ARGV[1], ARGV[2]

local held = redis.pcall('GET', key)
if held ~= acquisition then
  if ARGV[3] == 'leave' then redis.pcall('ZREM', queue, member) end
  return not_mine(held)
end
-- Nobody waits, as nearly always: a plain answer, and no list to build.
if redis.call('EXISTS', queue) == 0 then
  redis.call('DEL', key)
  return 'released'
end

local h = '[0-9a-f][0-9a-f][0-9a-f][0-9a-f]'
local form = '^(' .. h .. h .. '%-' .. h .. '%-' .. h .. '%-' .. h .. '%-' .. h .. h .. h .. ':%d+)@([1-9]%d*)@(.+)$'
local own = string.match(member, '^[^@]*@[^@]*@(.*)$')
local entries = {}
-- One more than the 32 that are looked at: one of them may be the releaser itself. An error (a queue of another type)
-- has no entries.
local range = redis.pcall('ZRANGE', queue, 0, 32, 'WITHSCORES')
for i = 1, #range, 2 do
  if range[i] ~= member and #entries < 32 then
    local who, claim, channel = string.match(range[i], form)
    if claim and #claim > 15 then channel = nil end
    entries[#entries + 1] = {member = range[i], score = tonumber(range[i + 1]), who = who, claim = claim, channel = channel}
  end
end

-- The script's first write frees memory, and so allows the ones that follow when memory is full. From here on nothing
-- may fail half way, since Lua does not roll back.
redis.pcall('ZREM', queue, member)
local token = #entries > 0 and draw(counter)
if not token then
  redis.call('DEL', key)
  return 'released'
end

local function publish(channel, text)
  local readers = redis.pcall('PUBLISH', channel, text)
  return type(readers) == 'number' and readers > 0
end

local gone = {}  -- channels found dead, or dropped, in this call
for _, entry in ipairs(entries) do
  local channel = entry.channel
  if not channel or gone[channel] then
    redis.call('ZREM', queue, entry.member)
  elseif channel ~= own and entry.score ~= math.floor(entry.score) then
    -- Offered before, and neither renewed nor joined since: its locker is stopped. All its waiters in sight go.
    gone[channel] = true
    for _, other in ipairs(entries) do
      if other.channel == channel then redis.call('ZREM', queue, other.member) end
    end
    publish(channel, 'dropped ' .. key)
  elseif channel == own or publish(channel, 'handoff ' .. entry.who .. ' ' .. token .. ' ' .. key) then
    redis.call('ZADD', queue, string.format('%.1f', math.floor(entry.score) + 0.5), entry.member)
    redis.call('SET', key, entry.who, 'PX', entry.claim)
    if channel == own then return {'next', entry.who, token} end
    return 'released'
  else
    gone[channel] = true
    redis.call('ZREM', queue, entry.member)
  end
end
if redis.call('ZCARD', queue) > 0 then return 'again' end
redis.call('DEL', key)
return 'released'
