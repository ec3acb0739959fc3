-- Ask for leave to call one of several providers; admits at most one, else says when to come back.
--
-- KEYS  1 opinions, 2 flight, 3..5 budget of yesterday, today and tomorrow,
--       6 events, 7 metrics, then for each candidate: window, slots, waiting, health; last: clock.
-- ARGV  1 JSON: sha, token, random (0..1), opinions (how many the caller has seen), age_us,
--       lease_us, patience_us, day_starts_us[3], total_calls, total_microyuan (-1: no limit),
--       audit_calls, audit_microyuan (the same for audits; absent: this is none),
--       skip_spent (true: pass over a provider whose budget is spent),
--       candidates[]: name, calls, window_us, concurrency, daily_calls, daily_microyuan, price,
--       total_field, lost (what the ledger is told of a call whose worker died)
-- All times are microseconds of the server's clock; 2^53 of them last until the year 2255.
--
-- Returns {'go', candidate, day, warned...} | {'reuse'} | {'flight', delay_us} |
--         {'wait', candidate, delay_us, why} | {'spent', candidate, 'calls'|'yuan', whose}
local ask = cjson.decode(ARGV[1])

-- Places in the rate that are given ahead, where it lets fewer calls out at once.
local PLACES = 8
local now = math.floor(tell_time() * 1000000)

if redis.call('HLEN', KEYS[1]) > ask.opinions then
  return {'reuse'}
end
local day = 1
for index = 1, 3 do
  if ask.day_starts_us[index] <= now then day = index end
end
local budget = KEYS[2 + day]

local flight_ms = redis.call('PTTL', KEYS[2])
if flight_ms * 1000 > ask.lease_us + 1000000 then
  -- Longer than any lease: the server's clock was set back.
  redis.call('PEXPIRE', KEYS[2], math.ceil(ask.lease_us / 1000))
  flight_ms = math.ceil(ask.lease_us / 1000)
end
if flight_ms > 0 and redis.call('GET', KEYS[2]) == ask.token then
  -- The client repeated itself because our reply was lost with its connection.
  for index = 1, #ask.candidates do
    if redis.call('ZSCORE', KEYS[7 + (index - 1) * 4 + 2], ask.token) then
      return {'go', index, day}
    end
  end
end
if flight_ms > 0 then
  -- Identical pictures come back about when the first of them has its answer.
  local delay = 400000 + ask.random * 1200000
  return {'flight', math.floor(math.min(delay, flight_ms * 1000 + 1000))}
end

local mine = 'for:' .. ask.sha

local function spent_of(whose, calls_limit, microyuan_limit, price)
  local used = redis.call('HMGET', budget, whose .. ':calls', whose .. ':microyuan')
  if calls_limit >= 0 and tonumber(used[1] or 0) + 1 > calls_limit then return 'calls' end
  if microyuan_limit >= 0 and tonumber(used[2] or 0) + price > microyuan_limit then return 'yuan' end
  return nil
end

-- When one candidate could take this picture: nil and what is spent, or the time and its reason.
local function offer_of(index, c)
  local base = 7 + (index - 1) * 4
  local offer = {
    index = index, c = c, window = KEYS[base + 1], slots = KEYS[base + 2],
    waiting = KEYS[base + 3], health = KEYS[base + 4], at = now, why = '',
  }
  local function not_before(at, why)
    if at > offer.at then offer.at, offer.why = at, why end
  end
  local h = redis.call('HMGET', offer.health, 'open_until', 'probe_until', 'paused_until', 'latency_us')
  local latency = tonumber(h[4] or 1000000)
  offer.spacing = math.max(c.window_us / c.calls, latency / c.concurrency)
  offer.open = tonumber(h[1] or 0) > 0

  not_before(tonumber(h[3] or 0), 'rate')
  redis.call('ZREMRANGEBYSCORE', offer.window, '-inf', now - c.window_us)
  -- Who has a place looks at the calls before it; who has none goes behind all places.
  local place = tonumber(redis.call('ZSCORE', offer.window, mine) or 0)
  offer.has_place = place > 0
  redis.call('ZREM', offer.window, mine)
  local before = offer.has_place and math.max(place, now) or '+inf'
  local full = redis.call('ZREVRANGEBYSCORE', offer.window, before, '-inf',
    'WITHSCORES', 'LIMIT', c.calls - 1, 1)
  if full[2] then not_before(tonumber(full[2]) + c.window_us, 'rate') end
  not_before(place, 'rate')
  offer.places = redis.call('ZCOUNT', offer.window, string.format('(%.0f', now), '+inf')
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', offer.slots, '-inf', now)) do
    -- Its worker died. The provider may have answered, so it stays paid for.
    redis.call('ZREM', offer.slots, token)
    redis.call('XADD', KEYS[6], '*', 'kind', 'opinion', 'upload_id', '', 'seq', 0, 'from', '',
      'to', 'unanswered', 'at', string.format('%.6f', now / 1000000), 'detail', c.lost)
    redis.call('HINCRBYFLOAT', KEYS[7], c.total_field, string.format('%.6f', c.price / 1000000))
  end
  if redis.call('ZCARD', offer.slots) >= c.concurrency then
    not_before(now + latency / c.concurrency, 'concurrency')
  end
  if offer.open then
    not_before(tonumber(h[1]), 'breaker')
    not_before(tonumber(h[2] or 0), 'breaker')
  end

  -- Who waits asks again at a random time; an entry that is long overdue was decided otherwise.
  redis.call('ZREMRANGEBYSCORE', offer.waiting, '-inf', now - 60000000)
  offer.ahead = redis.call('ZCARD', offer.waiting) * offer.spacing
  return offer
end

local offers, spent = {}, nil
for index, c in ipairs(ask.candidates) do
  local whose = 'total'
  local what = spent_of('total', ask.total_calls, ask.total_microyuan, c.price)
  if not what and ask.audit_calls then
    whose = 'audit'
    what = spent_of('audit', ask.audit_calls, ask.audit_microyuan, c.price)
  end
  if not what then
    whose = c.name
    what = spent_of(c.name, c.daily_calls, c.daily_microyuan, c.price)
  end
  if not what then
    offers[#offers + 1] = offer_of(index, c)
  else
    spent = spent or {'spent', index, what, whose}
    if not ask.skip_spent then break end
  end
end
if #offers == 0 then
  return spent
end

-- The first that is not failing and can take it in time, else the one that can take it soonest.
local best = nil
for _, offer in ipairs(offers) do
  if offer.why ~= 'breaker' and offer.at + offer.ahead - now <= ask.patience_us then
    best = offer
    break
  end
end
if not best then
  for _, offer in ipairs(offers) do
    if not best or offer.at + offer.ahead < best.at + best.ahead then best = offer end
  end
end

local waited = false
for index = 1, #ask.candidates do
  waited = redis.call('ZREM', KEYS[7 + (index - 1) * 4 + 3], ask.sha) == 1 or waited
end
if best.at > now then
  local delay = best.at - now
  local crowd = redis.call('ZCARD', best.waiting) > best.places
  local is_next = best.places < math.max(PLACES, best.c.calls) and (waited or not crowd)
  if best.why == 'rate' and (best.has_place or is_next) then
    redis.call('ZADD', best.window, best.at, mine)
    redis.call('PEXPIRE', best.window, math.ceil((delay + best.c.window_us) / 1000) + 1000)
  else
    -- Spread over half of the time that all who wait need, so that two ask for each place, from the
    -- time on when half of the places are used up; who has waited long comes back up to four times
    -- as often as who is new.
    local share = math.max(0.25, best.ahead / (best.ahead + ask.age_us + 1))
    local spread = math.min(best.spacing, 250000) + share * best.ahead / 2
    delay = math.max(0, delay - best.places * best.spacing / 2) + ask.random * spread
  end
  redis.call('ZADD', best.waiting, now + delay, ask.sha)
  redis.call('PEXPIRE', best.waiting, math.ceil(delay / 1000) + 86400000)
  return {'wait', best.index, math.ceil(delay), best.why}
end

local c = best.c
local lease_ms = math.ceil(ask.lease_us / 1000)
redis.call('ZADD', best.window, now, ask.token)
local last = redis.call('ZRANGE', best.window, -1, -1, 'WITHSCORES')
redis.call('PEXPIRE', best.window, math.ceil((last[2] - now + c.window_us) / 1000) + 1000)
redis.call('ZADD', best.slots, now + ask.lease_us, ask.token)
redis.call('PEXPIRE', best.slots, lease_ms + 1000)
redis.call('SET', KEYS[2], ask.token, 'PX', lease_ms)
if best.open then
  redis.call('HSET', best.health, 'probe_until', now + ask.lease_us, 'probe', ask.token)
end

local reply = {'go', best.index, day}
local function count(whose, calls_limit, microyuan_limit)
  local calls = redis.call('HINCRBY', budget, whose .. ':calls', 1)
  local microyuan = redis.call('HINCRBY', budget, whose .. ':microyuan', c.price)
  local low = (calls_limit >= 0 and calls >= 0.8 * calls_limit)
    or (microyuan_limit >= 0 and microyuan >= 0.8 * microyuan_limit)
  if low and redis.call('HSETNX', budget, whose .. ':warned', 1) == 1 then
    reply[#reply + 1] = whose
  end
end
count('total', ask.total_calls, ask.total_microyuan)
if ask.audit_calls then
  count('audit', ask.audit_calls, ask.audit_microyuan)
end
count(c.name, c.daily_calls, c.daily_microyuan)
redis.call('PEXPIRE', budget, 8 * 86400000)
return reply
