-- Take one callback out of the dead letters: due again, or gone for good.
-- KEYS: 1 dead letters  2 dead letter  3 callback entry  4 due lane of its endpoint  5 events
--       6 clock
-- ARGV: 1 {item, id, seq, delay_s (absent: discard), letter_ttl_s: kept as history, detail (JSON)}
-- Returns 1, or 0 when it was no dead letter (any more).
local a = cjson.decode(ARGV[1])
if redis.call('ZREM', KEYS[1], a.item) == 0 then
  return 0
end
redis.call('EXPIRE', KEYS[2], math.ceil(a.letter_ttl_s))
local now = string.format('%.6f', tell_time())
local outcome = 'discarded'
if a.delay_s and redis.call('EXISTS', KEYS[3]) == 1 then
  outcome = 'replayed'
  redis.call('HSET', KEYS[3], 'attempts', 0)
  redis.call('HDEL', KEYS[3], 'first_failed_at')
  redis.call('ZADD', KEYS[4], string.format('%.6f', tonumber(now) + a.delay_s), a.item)
else
  redis.call('DEL', KEYS[3])
end
redis.call('XADD', KEYS[5], '*', 'kind', 'callback', 'upload_id', a.id, 'seq', a.seq,
  'from', 'dead', 'to', outcome, 'at', now, 'detail', a.detail)
return 1
