-- Let one callback that waits, or lies in the dead letters, go to another address.
-- KEYS: 1 callback entry  2..4 due lanes of its endpoint  5 due lane of the new endpoint
--       6 endpoints
-- ARGV: 1 {item, from and to: addresses, endpoint: name of the new one, due: whether it waits}
-- Returns 1, or 0 where it goes elsewhere, is delivered, or is under way just now.
local a = cjson.decode(ARGV[1])
if redis.call('HGET', KEYS[1], 'url') ~= a.from then
  return 0
end
if a.due then
  local waited = 0
  for lane = 2, 4 do
    waited = waited + redis.call('ZREM', KEYS[lane], a.item)
  end
  if waited == 0 then
    return 0
  end
  redis.call('ZADD', KEYS[5], redis.call('HGET', KEYS[1], 'at'), a.item)
  redis.call('SADD', KEYS[6], a.endpoint)
end
redis.call('HSET', KEYS[1], 'url', a.to, 'endpoint', a.endpoint, 'attempts', 0)
redis.call('HDEL', KEYS[1], 'first_failed_at')
return 1
