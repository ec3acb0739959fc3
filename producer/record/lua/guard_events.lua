-- Bound the stream of events and count what is lost by it, in one step.
-- KEYS: 1 events  2 events:dropped   ARGV: 1 {most: events}
-- Returns how many were removed.
local removed = redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', cjson.decode(ARGV[1]).most)
if removed > 0 then
  redis.call('INCRBY', KEYS[2], removed)
end
return removed
