-- Shared beginning of a renewal on a quorum's server: notes the lease where it is longer than any noted before.
-- Keys: 4 the server's membership. Arguments: 3 lease in ms.
if (tonumber(redis.pcall('HGET', KEYS[4], 'lease') or 0) or 0) < tonumber(ARGV[3]) then
  redis.pcall('HSET', KEYS[4], 'lease', ARGV[3])
end

