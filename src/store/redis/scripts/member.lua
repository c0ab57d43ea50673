-- Shared beginning of the steps on a quorum's server: one whose counter is below 2^50 has lost its data and does not count.
-- It must not lift the counter by itself, and nothing is written.
-- Keys: 3 the fence counter.
if (tonumber(redis.pcall('GET', KEYS[3]) or 0) or 0) < 1125899906842624 then
  return redis.error_reply('NOTMEMBER the server has lost its data and does not count')
end

