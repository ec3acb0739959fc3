-- End one callback: delivered, or buried in the dead letters. Only its present holder may.
-- KEYS: 1 lease  2 holder  3 crashes  4 callback entry  5 events  6 dead letters  7 dead letter
--       8 endpoint  9 clock
-- ARGV: 1 {item, token, id, seq, detail (JSON), letter (JSON; absent: delivered),
--         server: scheme, host and port of the endpoint, took_s: seconds that a delivery took,
--         is_page: a web page answered}
-- Returns 1, 2 when the endpoint had failed before, or 0 when the lease was no longer ours.
local a = cjson.decode(ARGV[1])
if redis.call('HGET', KEYS[2], a.item) ~= a.token then
  return 0
end
local now = string.format('%.6f', tell_time())
redis.call('ZREM', KEYS[1], a.item)
redis.call('HDEL', KEYS[2], a.item)
redis.call('HDEL', KEYS[3], a.item)
local outcome, answer = 'delivered', 1
if not a.letter then
  redis.call('DEL', KEYS[4])
  answer = 1 + redis.call('HDEL', KEYS[8], 'failing_since')
  redis.call('HDEL', KEYS[8], 'last_error')
  redis.call('HSET', KEYS[8], 'last_success_at', now, 'server', a.server,
    'took_s', string.format('%.3f', a.took_s), 'is_page', a.is_page and '1' or '')
else
  outcome = 'dead'
  redis.call('ZADD', KEYS[6], now, a.item)
  redis.call('HSET', KEYS[7], 'letter', a.letter, 'at', now)
  redis.call('PERSIST', KEYS[7])
end
redis.call('XADD', KEYS[5], '*', 'kind', 'callback', 'upload_id', a.id, 'seq', a.seq,
  'from', '', 'to', outcome, 'at', now, 'detail', a.detail)
return answer
