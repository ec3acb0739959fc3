-- Say anew what an upload looked like, unless it looks like something else by now.
-- KEYS: 1 record
-- ARGV: 1 {was and now: the field looks_like (JSON)}
-- Returns 1 where it is said.
local a = cjson.decode(ARGV[1])
if redis.call('HGET', KEYS[1], 'looks_like') == a.was then
  redis.call('HSET', KEYS[1], 'looks_like', a.now)
  return 1
end
return 0
