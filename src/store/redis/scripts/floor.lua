-- Floor: on a new connection, lift the fence counter to the server's clock and above every token seen; 2^24 above that
-- where the server's data may be another's than before (rule 5). The 2^24 are added to the token seen and never to the
-- counter: many lockers that reconnect at once would add up, and run ahead of the clock that later lifts rely on.
-- Keys: 1 the fence counter. Arguments: 1 the highest token seen, 2 the replication id known, or ''.
-- Answers {counter, replication id or ''}, or an error.
local counter = KEYS[1]
-- A write that takes no memory, so that the next one is allowed when memory is full. It also shows a replica.
local persisted = redis.pcall('PERSIST', counter)
if type(persisted) ~= 'number' then return persisted end
local info, id = redis.pcall('INFO', 'replication'), ''
if type(info) == 'string' then id = string.match(info, 'master_replid:(%x+)') or '' end
local value = redis.pcall('GET', counter)
-- A counter that is no integer is left alone: the first draw fails, and its error names the counter.
if value and (type(value) ~= 'string' or not string.find(value, '^%-?%d+$')) then return {'0', id} end
local now = redis.call('TIME')
local seen = tonumber(ARGV[1])
if ARGV[2] ~= '' and ARGV[2] ~= id then seen = seen + 16777216 end
local n = math.max(tonumber(value or '0'), now[1] * 1000000 + now[2], seen)
local text = string.format('%.0f', n)
if text ~= value then
  local set = redis.pcall('SET', counter, text)
  if set.err then return set end
end
return {text, id}
