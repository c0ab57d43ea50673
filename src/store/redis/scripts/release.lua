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

-- A waiter's acquisition, claim lease and channel; nil where it is not of the form. The pattern is written out: to build it
-- would take time at every hand-off.
local form = '^([0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]%-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]%-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]%-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]%-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]:%d+)@([1-9]%d*)@(.+)$'
local function read(waiter)
  local who, claim, channel = string.match(waiter, form)
  if claim and #claim <= 15 then return who, claim, channel end
end
local own = string.match(member, '^[^@]*@[^@]*@(.*)$')

-- Nearly always the first waiter takes the lock: only where it does not are the others looked at. The second is read too,
-- since the first may be the releaser itself. An error (a queue of another type) has no entries.
local range = redis.pcall('ZRANGE', queue, 0, 1, 'WITHSCORES')
local at = range[1] == member and 3 or 1
local waiter, score = range[at], range[at + 1]

-- The script's first write frees memory, and so allows the ones that follow when memory is full. From here on nothing
-- may fail half way, since Lua does not roll back.
redis.pcall('ZREM', queue, member)
local token = waiter and draw(counter)
if not token then
  redis.call('DEL', key)
  return 'released'
end

-- A channel with a tag is read on the node of a cluster that runs this (rule 12).
local function publish(channel, text)
  if string.find(channel, '{', 1, true) then return redis.pcall('SPUBLISH', channel, text) end
  return redis.pcall('PUBLISH', channel, text)
end

-- Gives the lock to a waiter. Nil: nobody reads its channel.
local function offer(waiter, score, who, claim, channel)
  if channel ~= own then
    local readers = publish(channel, 'handoff ' .. who .. ' ' .. token .. ' ' .. key)
    if type(readers) ~= 'number' or readers == 0 then return nil end
  end
  redis.call('ZADD', queue, string.format('%.1f', math.floor(score) + 0.5), waiter)
  redis.call('SET', key, who, 'PX', claim)
  return channel == own and {'next', who, token} or 'released'
end

local gone = {}  -- channels found dead, or dropped, in this call
local who, claim, channel = read(waiter)
if who and (channel == own or score % 1 == 0) then
  local answer = offer(waiter, score, who, claim, channel)
  if answer then return answer end
  gone[channel] = true
end
range = redis.pcall('ZRANGE', queue, 0, 31, 'WITHSCORES')
for i = 1, #range, 2 do
  waiter, score = range[i], range[i + 1]
  who, claim, channel = read(waiter)
  if not who or gone[channel] then
    redis.call('ZREM', queue, waiter)
  elseif channel ~= own and score % 1 ~= 0 then
    -- Offered before, and neither renewed nor joined since: its locker is stopped. All its waiters in sight go.
    gone[channel] = true
    for j = 1, #range, 2 do
      local _, _, others = read(range[j])
      if others == channel then redis.call('ZREM', queue, range[j]) end
    end
    publish(channel, 'dropped ' .. key)
  else
    local answer = offer(waiter, score, who, claim, channel)
    if answer then return answer end
    gone[channel] = true
    redis.call('ZREM', queue, waiter)
  end
end
if redis.call('ZCARD', queue) > 0 then return 'again' end
redis.call('DEL', key)
return 'released'
