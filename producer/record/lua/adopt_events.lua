-- Move bucket events from the list that MinIO appends to into the intake, oldest first.
-- KEYS: 1 intake:events  2 intake
-- ARGV: 1 {limit}
-- Returns how many were moved.
local a = cjson.decode(ARGV[1])
local events = redis.call('LRANGE', KEYS[1], 0, a.limit - 1)
for _, event in ipairs(events) do
  redis.call('XADD', KEYS[2], '*', 'event', event)
end
if #events > 0 then
  redis.call('LTRIM', KEYS[1], #events, -1)
end
return #events
