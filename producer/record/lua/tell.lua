-- Put a callback into the outbox; included where the web tier is to hear of something.
-- c: {item, endpoint, url, data (JSON)}; entry, due and endpoints: names of keys
local function tell(c, entry, due, endpoints, now)
  redis.call('HSET', entry, 'url', c.url, 'endpoint', c.endpoint, 'data', c.data, 'at', now,
    'attempts', 0)
  redis.call('ZADD', due, now, c.item)
  redis.call('SADD', endpoints, c.endpoint)
end

