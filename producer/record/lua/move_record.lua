-- Let another address hear of one upload from now on.
-- KEYS: 1 record
-- ARGV: 1 {from and to: addresses}
-- Returns 1, or 0 where somebody else hears of it.
local a = cjson.decode(ARGV[1])
if redis.call('HGET', KEYS[1], 'callback_url') ~= a.from then
  return 0
end
redis.call('HSET', KEYS[1], 'callback_url', a.to)
return 1
