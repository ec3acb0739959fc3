-- End one callback: delivered, or buried in the dead letters. Only its present holder may.
-- KEYS: 1 lease  2 holder  3 crashes  4 callback entry  5 events  6 dead letters  7 dead letter
--       8 endpoint
-- ARGV: 1 item  2 token  3 upload id  4 seq  5 event detail (JSON)
--       6 dead letter (JSON; '': delivered)  7 scheme, host and port of the endpoint
-- Returns 1, or 0 when the lease was no longer ours.
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then
  return 0
end
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
local outcome = 'delivered'
if ARGV[6] == '' then
  redis.call('DEL', KEYS[4])
  redis.call('HDEL', KEYS[8], 'failing_since', 'last_error')
  redis.call('HSET', KEYS[8], 'last_success_at', now, 'server', ARGV[7])
else
  outcome = 'dead'
  redis.call('ZADD', KEYS[6], now, ARGV[1])
  redis.call('HSET', KEYS[7], 'letter', ARGV[6], 'at', now)
  redis.call('PERSIST', KEYS[7])
end
redis.call('XADD', KEYS[5], '*', 'kind', 'callback', 'upload_id', ARGV[3], 'seq', ARGV[4],
  'from', '', 'to', outcome, 'at', now, 'detail', ARGV[5])
return 1
