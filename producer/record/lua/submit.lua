-- Accept one upload: create its record and put it into the due set, or report what is already so.
-- KEYS: 1 record  2 due lane  3 open:queued  4 open:reviewing  5 events  6 callback_default
--       7 data set  8 subjects  9 subject:<the record's>  10 clock
-- ARGV: 1 {id, max_backlog, record_ttl_s, detail (JSON), fields {name: value}, and of data_set.lua:
--         seq_from, seen, spare}
-- Returns {outcome, state, seq}; outcome: "created", "exists" or "full".
-- include data_set
local a = cjson.decode(ARGV[1])
local present = redis.call('HMGET', KEYS[1], 'state', 'seq')
if present[1] then
  return {'exists', present[1], present[2]}
end
if redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4]) >= a.max_backlog then
  return {'full', '', '0'}
end
local time = tell_time()
local now, first = string.format('%.6f', time), first_seq(KEYS[7], a, time)
if not a.fields.callback_url then
  local default = redis.call('GET', KEYS[6])
  if default and default ~= 'none' then
    a.fields.callback_url = default
  end
end
local record = {'state', 'queued', 'seq', first, 'created_at', now, 'updated_at', now}
for name, value in pairs(a.fields) do
  record[#record + 1] = name
  record[#record + 1] = value
end
redis.call('HSET', KEYS[1], unpack(record))
redis.call('ZADD', KEYS[2], now, a.id)
redis.call('ZADD', KEYS[3], now, a.id)
if a.fields.subject then
  redis.call('SADD', KEYS[9], a.id)
  redis.call('ZADD', KEYS[8], tonumber(now) + a.record_ttl_s, a.fields.subject .. ' ' .. a.id)
end
redis.call('XADD', KEYS[5], '*', 'kind', 'transition', 'upload_id', a.id, 'seq', first,
  'from', '', 'to', 'queued', 'at', now, 'detail', a.detail)
return {'created', 'queued', first}
