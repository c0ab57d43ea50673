-- Shared beginning of the scripts that draw a number: the next value of the fence counter, as text (rule 5).
-- A number below 2^50 means that the counter was lost: it is lifted to the server's clock in microseconds.
-- Answers the text, or nil and an error reply that names the counter; nothing is changed then.
local function draw(counter)
  local n = redis.pcall('INCR', counter)
  if type(n) == 'number' and n < 1125899906842624 then
    local now = redis.call('TIME')
    n = math.max(now[1] * 1000000 + now[2], 1125899906842624)
    local set = redis.pcall('SET', counter, string.format('%.0f', n))
    if set.err then n = set end
  end
  if type(n) == 'number' then return string.format('%.0f', n) end
  return nil, {err = n.err .. ' (' .. counter .. ')'}
end

