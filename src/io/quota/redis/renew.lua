-- Keeps a name for longer. KEYS: the name. ARGV: who holds it, for how many milliseconds. Answers 1, or 0 where somebody
-- else holds it, or nobody.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
