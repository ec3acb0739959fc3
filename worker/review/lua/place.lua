-- Take a place in a provider's rate for a request that is about to be written. What was let in earlier
-- counts from now on, for only now does it go out.
--
-- KEYS  1 window, 2 clock
-- ARGV  1 token, 2 calls, 3 window_us
-- Returns 0 when it may go out, else the microseconds after which to ask again.
local token, calls, window_us = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = math.floor(tell_time() * 1000000)
redis.call('ZREM', KEYS[1], token)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window_us)
local full = redis.call('ZREVRANGEBYSCORE', KEYS[1], now, '-inf', 'WITHSCORES', 'LIMIT', calls - 1, 1)
local at = full[2] and tonumber(full[2]) + window_us or now
redis.call('ZADD', KEYS[1], at, token)
redis.call('PEXPIRE', KEYS[1], math.ceil((at - now + window_us) / 1000) + 1000)
return at - now
