-- Lengthen the leases that this holder still has.
-- KEYS: 1 lease  2 holder
-- ARGV: 1 lease seconds  2 token  3.. items
-- Returns how many were still held.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local until_ = string.format('%.6f', now + tonumber(ARGV[1]))
local held = 0
for i = 3, #ARGV do
  if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[2] then
    redis.call('ZADD', KEYS[1], 'XX', until_, ARGV[i])
    held = held + 1
  end
end
return held
