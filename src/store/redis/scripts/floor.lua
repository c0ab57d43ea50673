-- Floor: on a new connection, lift the fence counter above every token that may have been given elsewhere (rule 5):
-- above those seen by this locker, 2^24 above them where the server's data may be another's than before; to the server's
-- clock; and, where there are replicas, once in each life of a primary by 2^24, which leaves room for what its predecessor
-- gave and could not copy, or gives still. In that life the clock then lifts it no more: it would lift a predecessor that
-- still has clients above its successor. The lifts of many lockers that reconnect at once do not add up.
-- Keys: 1 the fence counter, 2 the life that it was lifted for. Arguments: 1 the highest token seen, 2 the replication id
-- known, or ''.
-- Answers {counter, replication id or ''}, or an error.
local counter, life, step = KEYS[1], KEYS[2], 16777216
-- A write that takes no memory, so that the next one is allowed when memory is full. It also shows a replica.
local persisted = redis.pcall('PERSIST', counter)
if type(persisted) ~= 'number' then return persisted end
local info, id = redis.pcall('INFO', 'replication'), ''
if type(info) == 'string' then id = string.match(info, 'master_replid:(%x+)') or '' end
local value = redis.pcall('GET', counter)
-- A counter that is no integer is left alone: the first draw fails, and its error names the counter.
if value and (type(value) ~= 'string' or not string.find(value, '^%-?%d+$')) then return {'0', id} end
local now = redis.call('TIME')
local clock, seen, own = now[1] * 1000000 + now[2], tonumber(ARGV[1]), tonumber(value or '0')
if ARGV[2] ~= '' and ARGV[2] ~= id then seen = seen + step end
local lifted = redis.pcall('GET', life)
if type(lifted) ~= 'string' or id == '' or own < 1125899906842624 then lifted = nil end
if lifted and lifted == id then clock = 0 elseif lifted then own = own + step end
local text = string.format('%.0f', math.max(own, clock, seen))
if text ~= value then
  local set = redis.pcall('SET', counter, text)
  if set.err then return set end
end
if id ~= '' and id ~= lifted and (lifted or string.find(info, 'connected_slaves:[1-9]')) then
  local set = redis.pcall('SET', life, id)
  if set.err then return set end
end
return {text, id}
