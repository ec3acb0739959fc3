-- End a lease without a transition: due again later, or dropped because nothing is left to do.
-- Only the present holder may; a late one must not disturb its successor.
-- KEYS: 1 lease  2 holder  3 crashes  4 due lane  5 hash whose fields are updated
-- ARGV: 1 item  2 token  3 delay in seconds (negative: drop)  4 keep crash count (1/0)
--       5.. fields and values of the hash
-- Returns 1, or 0 when the lease was no longer ours.
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if ARGV[4] ~= '1' then
  redis.call('HDEL', KEYS[3], ARGV[1])
end
local delay = tonumber(ARGV[3])
if delay >= 0 then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
  redis.call('ZADD', KEYS[4], string.format('%.6f', now + delay), ARGV[1])
end
if #ARGV > 4 and redis.call('EXISTS', KEYS[5]) == 1 then
  redis.call('HSET', KEYS[5], unpack(ARGV, 5))
end
return 1
