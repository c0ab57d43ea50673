-- Shared beginning of a join on a quorum's server: numbers drawn from now on are above its place. So whoever comes later has
-- a place behind it, however far the counters of the servers are apart.
-- Keys: 3 the fence counter. Arguments: 5 place or 0.
if tonumber(redis.call('GET', KEYS[3])) < tonumber(ARGV[5]) then redis.pcall('SET', KEYS[3], ARGV[5]) end

