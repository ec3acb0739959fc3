-- Take one callback out of the dead letters: due again, or gone for good.
-- KEYS: 1 dead letters  2 dead letter  3 callback entry  4 due lane of its endpoint  5 events
-- ARGV: 1 item  2 upload id  3 seq  4 delay in seconds (negative: discard)
--       5 seconds the letter is kept as history  6 event detail (JSON)
-- Returns 1, or 0 when it was no dead letter (any more).
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('EXPIRE', KEYS[2], math.ceil(tonumber(ARGV[5])))
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
local outcome = 'discarded'
if tonumber(ARGV[4]) >= 0 and redis.call('EXISTS', KEYS[3]) == 1 then
  outcome = 'replayed'
  redis.call('HSET', KEYS[3], 'attempts', 0)
  redis.call('HDEL', KEYS[3], 'first_failed_at')
  redis.call('ZADD', KEYS[4], string.format('%.6f', tonumber(now) + tonumber(ARGV[4])), ARGV[1])
else
  redis.call('DEL', KEYS[3])
end
redis.call('XADD', KEYS[5], '*', 'kind', 'callback', 'upload_id', ARGV[2], 'seq', ARGV[3],
  'from', 'dead', 'to', outcome, 'at', now, 'detail', ARGV[6])
return 1
