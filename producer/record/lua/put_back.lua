-- End a lease without a transition: due again later, or dropped because nothing is left to do.
-- Only the present holder may; a late one must not disturb its successor.
-- KEYS: 1 lease  2 holder  3 crashes  4 due lane  5 hash whose fields are updated
--       6 clock
-- ARGV: 1 {item, token, delay_s (absent: drop), keep_crashes, fields {name: value}}
-- Returns 1, or 0 when the lease was no longer ours.
local a = cjson.decode(ARGV[1])
if redis.call('HGET', KEYS[2], a.item) ~= a.token then
  return 0
end
redis.call('ZREM', KEYS[1], a.item)
redis.call('HDEL', KEYS[2], a.item)
if not a.keep_crashes then
  redis.call('HDEL', KEYS[3], a.item)
end
if a.delay_s then
  redis.call('ZADD', KEYS[4], string.format('%.6f', tell_time() + a.delay_s), a.item)
end
if next(a.fields) and redis.call('EXISTS', KEYS[5]) == 1 then
  for name, value in pairs(a.fields) do
    redis.call('HSET', KEYS[5], name, value)
  end
end
return 1
