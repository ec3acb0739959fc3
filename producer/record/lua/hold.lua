-- Take or keep a lock. Its end stands in the server's own expiry; where that is too far away, the
-- server's clock was set back, and the lock is let go of in time.
-- Works while Redis is full, too: a duty, the ledger's drain, makes room.
-- KEYS: 1 lock  2 clock   ARGV: 1 {token, ttl_s}
-- Returns 1, or 0 when somebody else holds it.
local a = cjson.decode(ARGV[1])
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= a.token then
  if redis.call('PTTL', KEYS[1]) > a.ttl_s * 1000 then
    redis.call('PEXPIRE', KEYS[1], a.ttl_s * 1000)
  end
  return 0
end
-- After a write that is always allowed, a script may go on.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], a.token, 'PX', a.ttl_s * 1000)
return 1
