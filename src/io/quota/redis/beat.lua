-- Says that a replica lives. KEYS: the list of replicas. ARGV: replica, for how many milliseconds.
-- Answers how many live. A list that grows beyond its bound loses those that end first.
local MOST = 1024
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = math.max(1, math.min(tonumber(ARGV[2]), 86400000))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ttl), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -(MOST + 1))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ttl))
return redis.call('ZCARD', KEYS[1])
