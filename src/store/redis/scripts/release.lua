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

-- The waiters from the front to `last`, 32 at most: one of them may be the releaser itself. An error (a queue of another
-- type) has no entries.
local function look(last)
  local entries = {}
  local range = redis.pcall('ZRANGE', queue, 0, last, 'WITHSCORES')
  for i = 1, #range, 2 do
    if range[i] ~= member and #entries < 32 then
      local who, claim, channel = string.match(range[i], form)
      if claim and #claim > 15 then channel = nil end
      entries[#entries + 1] = {member = range[i], score = tonumber(range[i + 1]), who = who, claim = claim, channel = channel}
    end
  end
  return entries
end
-- Nearly always the first takes the lock; only where it does not are the others looked at.
local entries = look(1)

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
-- Gives the lock to this waiter. Nil: nobody reads its channel.
local function offer(entry)
  local channel = entry.channel
  if not (channel == own or publish(channel, 'handoff ' .. entry.who .. ' ' .. token .. ' ' .. key)) then
    gone[channel] = true
    return nil
  end
  redis.call('ZADD', queue, string.format('%.1f', math.floor(entry.score) + 0.5), entry.member)
  redis.call('SET', key, entry.who, 'PX', entry.claim)
  return channel == own and {'next', entry.who, token} or 'released'
end
local first = entries[1]
if first and first.channel and (first.channel == own or first.score == math.floor(first.score)) then
  local answer = offer(first)
  if answer then return answer end
end
entries = look(32)
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
  else
    local answer = offer(entry)
    if answer then return answer end
    redis.call('ZREM', queue, entry.member)
  end
end
if redis.call('ZCARD', queue) > 0 then return 'again' end
redis.call('DEL', key)
return 'released'
