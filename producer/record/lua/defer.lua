-- Let an approval wait for its safe copy: compare state and seq, end the lease, note the approval,
-- make the upload due for copying. State and seq stay; a second run notes the same once more.
-- KEYS: 1 record  2 lease  3 holder  4 crashes  5 due lane of the stage that is left
--       6 due lane of safe copies  7 what is known of the content  8 clock
-- ARGV: 1 {id, seq and from: as they must be, fields {name: value},
--         remember: verdict to keep for the content (JSON) or absent, remember_s: for how long}
-- Returns {1, state, seq}, or {0, present state, present seq} when nothing was changed.
local a = cjson.decode(ARGV[1])
local present = redis.call('HMGET', KEYS[1], 'state', 'seq')
if not present[1] then
  return {0, '', '0'}
end
if present[1] ~= a.from or tonumber(present[2]) ~= a.seq then
  return {0, present[1], present[2]}
end
for name, value in pairs(a.fields) do
  redis.call('HSET', KEYS[1], name, value)
end
redis.call('ZREM', KEYS[2], a.id)
redis.call('HDEL', KEYS[3], a.id)
redis.call('HDEL', KEYS[4], a.id)
redis.call('ZREM', KEYS[5], a.id)
redis.call('ZADD', KEYS[6], string.format('%.6f', tell_time()), a.id)
if a.remember then
  redis.call('SET', KEYS[7], a.remember, 'EX', math.ceil(a.remember_s))
end
return {1, present[1], present[2]}
