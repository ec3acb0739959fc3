-- Accept one upload: create its record and put it into the due set, or report what is already so.
-- KEYS: 1 record  2 due lane  3 open:queued  4 open:reviewing  5 events
-- ARGV: 1 upload id  2 max backlog  3 event detail (JSON)  4.. record fields and values
-- Returns {outcome, state, seq}; outcome: "created", "exists" or "full".
local state = redis.call('HMGET', KEYS[1], 'state', 'seq')
if state[1] then
  return {'exists', state[1], state[2]}
end
if redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[2]) then
  return {'full', '', '0'}
end
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
redis.call('HSET', KEYS[1], 'state', 'queued', 'seq', 1, 'created_at', now, 'updated_at', now,
  unpack(ARGV, 4))
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZADD', KEYS[3], now, ARGV[1])
redis.call('XADD', KEYS[5], '*', 'kind', 'transition', 'upload_id', ARGV[1], 'seq', 1,
  'from', '', 'to', 'queued', 'at', now, 'detail', ARGV[3])
return {'created', 'queued', '1'}
