-- Close one call: free its slot and flight, keep its opinion, refund what is not billed or tell the
-- ledger and the metrics of what is, judge the provider's health.
--
-- KEYS  1 opinions, 2 flight, 3 budget of the day it was admitted in, 4 slots, 5 health, 6 events,
--       7 metrics, 8 clock
-- ARGV  1 JSON: provider, token, price, outcome (answered | failed | limited | misconfigured |
--       dropped: says nothing about the provider), billed, booked (whose budgets it is on), latency_us, error, pause_us (-1: not
--       told), upload_id, seq, to, detail (for the ledger), total_field, opinion_field, opinion ('' : none), opinion_ttl_ms,
--       breaker_failures (share), breaker_calls, breaker_open_us, misconfigured_us
-- Returns {event ('' | 'opened' | 'closed'), microseconds it stays open or paused}
local done = cjson.decode(ARGV[1])
local now = math.floor(tell_time() * 1000000)
local health = KEYS[5]

-- Only once: a client repeats itself when our reply is lost with its connection. A call that
-- outlived its lease is not refunded either.
local is_first = redis.call('ZREM', KEYS[4], done.token) == 1
if redis.call('GET', KEYS[2]) == done.token then
  redis.call('DEL', KEYS[2])
end
if is_first and not done.billed then
  for _, whose in ipairs(done.booked) do
    redis.call('HINCRBY', KEYS[3], whose .. ':calls', -1)
    redis.call('HINCRBY', KEYS[3], whose .. ':microyuan', -done.price)
  end
end
if is_first and done.billed then
  redis.call('XADD', KEYS[6], '*', 'kind', 'opinion', 'upload_id', done.upload_id,
    'seq', done.seq, 'from', '', 'to', done.to, 'at', string.format('%.6f', now / 1000000),
    'detail', done.detail)
  redis.call('HINCRBYFLOAT', KEYS[7], done.total_field, string.format('%.6f', done.price / 1000000))
end
if done.opinion ~= '' then
  redis.call('HSET', KEYS[1], done.opinion_field, done.opinion)
  redis.call('PEXPIRE', KEYS[1], done.opinion_ttl_ms)
end

local was_probe = redis.call('HGET', health, 'probe') == done.token
if was_probe then
  redis.call('HDEL', health, 'probe', 'probe_until')
end
if done.outcome == 'dropped' or not is_first then
  return {'', 0}
end
if done.error ~= '' then
  redis.call('HSET', health, 'error', done.error, 'error_at', now)
end
redis.call('HSET', health, 'called_at', now)
redis.call('PEXPIRE', health, 30 * 86400000)

local function open(kind, length_us)
  redis.call('HSET', health, 'open_until', now + length_us, 'kind', kind, 'reason', done.error)
  redis.call('HDEL', health, 'probe', 'probe_until', 'probes_ok')
  return {'opened', length_us}
end
local function close()
  redis.call('HDEL', health, 'open_until', 'kind', 'reason', 'opens', 'probes_ok',
    'b0', 'b1', 'b2', 'b3', 'b4', 'b5')
  return {'closed', 0}
end
local is_open = redis.call('HEXISTS', health, 'open_until') == 1

if done.outcome == 'misconfigured' then
  local reply = open('misconfigured', done.misconfigured_us)
  if is_open and not was_probe then reply[1] = '' end
  return reply
end
if done.outcome == 'limited' then
  -- Told how long, or twice as long each time: 1, 2, 4 ... 60 seconds.
  local pauses = redis.call('HINCRBY', health, 'pauses', 1)
  local pause = done.pause_us
  if pause < 0 then pause = math.min(60000000, 500000 * 2 ^ math.min(pauses, 10)) end
  redis.call('HSET', health, 'paused_until', now + pause)
  return {'', pause}
end

local succeeded = done.outcome == 'answered'
if succeeded then
  redis.call('HDEL', health, 'pauses')
  local before = tonumber(redis.call('HGET', health, 'latency_us') or done.latency_us)
  redis.call('HSET', health, 'latency_us', math.floor(before * 0.8 + done.latency_us * 0.2))
end

if is_open then
  -- A late reply to a call from before it opened proves nothing; only the probe counts.
  if not was_probe then return {'', 0} end
  if not succeeded then
    local opens = redis.call('HINCRBY', health, 'opens', 1)
    return open('failing', math.min(600000000, done.breaker_open_us * 2 ^ math.min(opens, 10)))
  end
  if redis.call('HINCRBY', health, 'probes_ok', 1) >= 2 then return close() end
  return {'', 0}
end

-- Six buckets of ten seconds: "number:answered:failed".
local bucket = math.floor(now / 10000000)
local field = 'b' .. (bucket % 6)
local answered, failed = 0, 0
for index = 0, 5 do
  local text = redis.call('HGET', health, 'b' .. index)
  local number, good, bad = string.match(text or '', '^(%d+):(%d+):(%d+)$')
  number = tonumber(number or 0)
  if number > bucket - 6 then
    answered, failed = answered + tonumber(good), failed + tonumber(bad)
  end
  if 'b' .. index == field then
    if number ~= bucket then good, bad = 0, 0 end
    good, bad = tonumber(good) + (succeeded and 1 or 0), tonumber(bad) + (succeeded and 0 or 1)
    redis.call('HSET', health, field, string.format('%d:%d:%d', bucket, good, bad))
  end
end
if succeeded then answered = answered + 1 else failed = failed + 1 end
local calls = answered + failed
if not succeeded and calls >= done.breaker_calls and failed >= done.breaker_failures * calls then
  redis.call('HSET', health, 'opens', 0)
  return open('failing', done.breaker_open_us)
end
return {'', 0}
