-- End the audit of an approval without a change of its state, or hand it to a person. Once only:
-- a second run finds it ended and ends nothing but the lease.
-- KEYS: 1 record  2 events  3 lease  4 holder  5 crashes  6 audits for people
--       7 audits found explicit  8 doubted content  9 clock
-- ARGV: 1 {id, seq: as it must be, to: `person`, or how it ends, fields {name: value},
--         label (JSON of the event), doubt_ttl_s}
-- Returns 1, or 0 when the upload changed, then nothing else does, or it was not open any more.
local a = cjson.decode(ARGV[1])
local present = redis.call('HMGET', KEYS[1], 'audit', 'seq', 'created_at', 'region')
local is_open = present[1] == 'due' or (present[1] == 'person' and a.to ~= 'person')
if is_open and tonumber(present[2]) ~= a.seq then
  return 0
end
redis.call('ZREM', KEYS[3], a.id)
redis.call('HDEL', KEYS[4], a.id)
redis.call('HDEL', KEYS[5], a.id)
if not is_open then
  return 0
end
local now = string.format('%.6f', tell_time())
redis.call('HSET', KEYS[1], 'audit', a.to)
for name, value in pairs(a.fields) do
  redis.call('HSET', KEYS[1], name, value)
end
if a.to == 'person' then
  redis.call('ZADD', KEYS[6], now, a.id)
  return 1
end
redis.call('ZREM', KEYS[6], a.id)
if a.to == 'explicit' then
  redis.call('ZADD', KEYS[7], now, a.id)
  redis.call('SET', KEYS[8], a.id, 'EX', math.ceil(a.doubt_ttl_s))
end
redis.call('XADD', KEYS[2], '*', 'kind', 'label', 'upload_id', a.id, 'seq', present[2], 'from', '',
  'to', a.to, 'at', now, 'created_at', present[3] or '', 'region', present[4] or '',
  'detail', a.label)
return 1
