-- Lengthen the leases that this holder still has.
-- KEYS: 1 lease  2 holder  3 clock
-- ARGV: 1 {lease_s, token, items [item, ...]}
-- Returns how many were still held.
local a = cjson.decode(ARGV[1])
local now = tell_time()
local until_ = string.format('%.6f', now + a.lease_s)
local held = 0
-- After a write that is always allowed, a script may go on while Redis is full.
redis.call('ZREM', KEYS[1], '')
for _, item in ipairs(a.items) do
  if redis.call('HGET', KEYS[2], item) == a.token then
    redis.call('ZADD', KEYS[1], 'XX', until_, item)
    held = held + 1
  end
end
return held
