-- One transition of one upload, all of it or nothing: compare state and seq, write the new state,
-- end the lease, enter the next stage, put the callback into the outbox, note the event, count.
-- A second run finds another seq and changes nothing.
-- KEYS: 1 record  2 events  3 counts  4 open:<from>  5 open:<to>
--       6 lease  7 holder  8 crashes  9 due lane of the stage that is left
--       10 due lane of the stage that is entered
--       11 callback entry  12 due lane of its endpoint  13 endpoints
--       14 dead letters  15 dead letter
-- ARGV: 1 upload id  2 expected seq  3 from  4 to  5 delay before the next stage, in seconds
--       6 enters a stage (1/0)  7 record's time to live in seconds once final (0: keep)
--       8 event detail (JSON)  9 callback item ('': none)  10 endpoint  11 callback URL
--       12 callback data (JSON)  13 dead letter item ('': none)  14 new dead letter (JSON; '': remove)
--       15 number of record fields and values that follow, 16.. fields and values
-- Returns {1, state, seq}, or {0, present state, present seq} when nothing was changed.
local present = redis.call('HMGET', KEYS[1], 'state', 'seq', 'created_at', 'region')
if not present[1] then
  return {0, '', '0'}
end
if present[1] ~= ARGV[3] or present[2] ~= ARGV[2] then
  return {0, present[1], present[2]}
end
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
local seq = tonumber(present[2]) + 1
local id, from, to = ARGV[1], ARGV[3], ARGV[4]

redis.call('HSET', KEYS[1], 'state', to, 'seq', seq, 'updated_at', now)
if tonumber(ARGV[15]) > 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 16))
end
local ttl = tonumber(ARGV[7])
if ttl > 0 then
  redis.call('EXPIRE', KEYS[1], math.ceil(ttl))
else
  redis.call('PERSIST', KEYS[1])
end

redis.call('ZREM', KEYS[4], id)
if ttl == 0 then
  redis.call('ZADD', KEYS[5], now, id)
end

redis.call('ZREM', KEYS[6], id)
redis.call('HDEL', KEYS[7], id)
redis.call('HDEL', KEYS[8], id)
redis.call('ZREM', KEYS[9], id)
if ARGV[6] == '1' then
  redis.call('ZADD', KEYS[10], string.format('%.6f', tonumber(now) + tonumber(ARGV[5])), id)
end

if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[11], 'url', ARGV[11], 'endpoint', ARGV[10], 'data', ARGV[12],
    'at', now, 'attempts', 0)
  redis.call('ZADD', KEYS[12], now, ARGV[9])
  redis.call('SADD', KEYS[13], ARGV[10])
end

if ARGV[13] ~= '' then
  if ARGV[14] ~= '' then
    redis.call('ZADD', KEYS[14], now, ARGV[13])
    redis.call('HSET', KEYS[15], 'letter', ARGV[14], 'at', now)
    redis.call('PERSIST', KEYS[15])
  else
    redis.call('ZREM', KEYS[14], ARGV[13])
    redis.call('EXPIRE', KEYS[15], 2592000)
  end
end

redis.call('HINCRBY', KEYS[3], to, 1)
redis.call('HSET', KEYS[3], 'last_transition_at', now)
redis.call('XADD', KEYS[2], '*', 'kind', 'transition', 'upload_id', id, 'seq', seq,
  'from', from, 'to', to, 'at', now, 'created_at', present[3] or '', 'region', present[4] or '',
  'detail', ARGV[8])
return {1, to, tostring(seq)}
