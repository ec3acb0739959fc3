-- Bring back one upload that Redis lost: its record, who acts next, who hears of it; or report what is
-- already so, for it may have been enqueued anew.
-- KEYS: 1 record  2 due lane  3 open:<state>  4 events  5 callback_default  6 callback entry
--       7 due lane of its endpoint  8 endpoints  9 data set  10 changes
--       11, 12 uploads with this content that wait, and that are decided  13 appeals  14 clock
-- ARGV: 1 {id, seq: higher than any before, state, is_due, is_open, ttl_s (absent: it is kept),
--         has_content: its picture was looked at, keep_s: of the list of decided uploads,
--         appeals: its owner objects,
--         detail (JSON), fields {name: value}, callback {item, endpoint, url, data (JSON)} or absent,
--         changes_s: see list_change.lua, and of data_set.lua: seq_from, seen, spare}
-- Returns "restored", "exists", or "again": the seq has become too low.
-- include data_set
-- include tell
-- include list_change
local a = cjson.decode(ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 'exists'
end
local time, told = tell_time()
local now = string.format('%.6f', time)
if tonumber(first_seq(KEYS[9], a, time)) > a.seq then
  return 'again'
end
raise_floor(KEYS[9], a, time, a.seq)
if not a.fields.callback_url then
  local default = redis.call('GET', KEYS[5])
  if default and default ~= 'none' then
    a.fields.callback_url = default
  end
end
local record = {'state', a.state, 'seq', a.seq, 'updated_at', now}
for name, value in pairs(a.fields) do
  record[#record + 1] = name
  record[#record + 1] = value
end
redis.call('HSET', KEYS[1], unpack(record))
if a.ttl_s then
  redis.call('EXPIRE', KEYS[1], math.ceil(a.ttl_s))
end
if a.is_due then
  redis.call('ZADD', KEYS[2], now, a.id)
end
if a.is_open then
  redis.call('ZADD', KEYS[3], now, a.id)
end
list_change(KEYS[10], a, a.seq, a.state, told)
if a.has_content and a.is_open then
  redis.call('SADD', KEYS[11], a.id)
elseif a.has_content then
  redis.call('SADD', KEYS[12], a.id)
  redis.call('EXPIRE', KEYS[12], math.ceil(a.keep_s))
end
if a.appeals then
  redis.call('ZADD', KEYS[13], now, a.id)
end
if a.callback then
  tell(a.callback, KEYS[6], KEYS[7], KEYS[8], now)
end
redis.call('XADD', KEYS[4], '*', 'kind', 'transition', 'upload_id', a.id, 'seq', a.seq,
  'from', '', 'to', a.state, 'at', now, 'created_at', a.fields.created_at or now,
  'region', a.fields.region or '', 'sha256', a.fields.sha256 or '',
  'tells', a.callback and a.callback.endpoint or '', 'detail', a.detail)
return 'restored'
