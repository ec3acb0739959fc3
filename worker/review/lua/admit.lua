-- Ask for leave to call one of several providers; admits at most one, else says when to come back.
--
-- KEYS  1 opinions, 2 flight, 3..5 budget of yesterday, today and tomorrow (by the caller's clock),
--       then for each candidate: window, slots, queue, health.
-- ARGV  1 JSON: sha, token, random (0..1), opinions (how many the caller has seen), lease_us,
--       patience_us, day_starts_us[3], total_calls, total_microyuan (-1: no limit),
--       skip_spent (true: pass over a provider whose budget is spent),
--       candidates[]: name, calls, window_us, concurrency, daily_calls, daily_microyuan, price
-- All times are microseconds of the server's clock; 2^53 of them last until the year 2255.
--
-- Returns {'go', candidate, day, warned...} | {'reuse'} | {'flight', delay_us} |
--         {'wait', candidate, delay_us, why} | {'spent', candidate, 'calls'|'yuan', whose}
local ask = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

if redis.call('HLEN', KEYS[1]) > ask.opinions then
  return {'reuse'}
end
local day = 1
for index = 1, 3 do
  if ask.day_starts_us[index] <= now then day = index end
end
local budget = KEYS[2 + day]

local flight_ms = redis.call('PTTL', KEYS[2])
if flight_ms > 0 and redis.call('GET', KEYS[2]) == ask.token then
  -- The client repeated itself because our reply was lost with its connection.
  for index = 1, #ask.candidates do
    if redis.call('ZSCORE', KEYS[5 + (index - 1) * 4 + 2], ask.token) then
      return {'go', index, day}
    end
  end
end
if flight_ms > 0 then
  -- Identical pictures come back about when the first of them has its answer.
  local delay = 400000 + ask.random * 1200000
  return {'flight', math.floor(math.min(delay, flight_ms * 1000 + 1000))}
end

local function spent_of(whose, calls_limit, microyuan_limit, price)
  local used = redis.call('HMGET', budget, whose .. ':calls', whose .. ':microyuan')
  if calls_limit >= 0 and tonumber(used[1] or 0) + 1 > calls_limit then return 'calls' end
  if microyuan_limit >= 0 and tonumber(used[2] or 0) + price > microyuan_limit then return 'yuan' end
  return nil
end

-- When one candidate could take this picture: nil and what is spent, or the time and its reason.
local function offer_of(index, c)
  local base = 5 + (index - 1) * 4
  local offer = {
    index = index, c = c, window = KEYS[base + 1], slots = KEYS[base + 2],
    queue = KEYS[base + 3], health = KEYS[base + 4], at = now, why = '',
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
  if redis.call('ZCARD', offer.window) >= c.calls then
    local oldest = redis.call('ZRANGE', offer.window, 0, 0, 'WITHSCORES')
    not_before(tonumber(oldest[2]) + c.window_us, 'rate')
  end
  redis.call('ZREMRANGEBYSCORE', offer.slots, '-inf', now)
  if redis.call('ZCARD', offer.slots) >= c.concurrency then
    not_before(now + latency, 'concurrency')
  end
  if offer.open then
    not_before(tonumber(h[1]), 'breaker')
    not_before(tonumber(h[2] or 0), 'breaker')
  end

  -- Who waits has a promised time. Newcomers go behind the queue. Who comes late (every worker was
  -- stopped for a while) shares the next free stretch with the others that are late.
  redis.call('ZREMRANGEBYSCORE', offer.queue, '-inf', now - 600000000)
  local promise = redis.call('ZSCORE', offer.queue, ask.sha)
  if not promise then
    local waiting = redis.call('ZCARD', offer.queue)
    if waiting > 0 then
      not_before(offer.at + waiting * offer.spacing, offer.why == '' and 'queue' or offer.why)
    end
  elseif tonumber(promise) > now then
    not_before(tonumber(promise), 'queue')
  elseif offer.at > now then
    local late = redis.call('ZCOUNT', offer.queue, '-inf', now)
    not_before(offer.at + ask.random * late * offer.spacing, offer.why)
  end
  return offer
end

local offers, spent = {}, nil
for index, c in ipairs(ask.candidates) do
  local whose = 'total'
  local what = spent_of('total', ask.total_calls, ask.total_microyuan, c.price)
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
  if offer.why ~= 'breaker' and offer.at - now <= ask.patience_us then
    best = offer
    break
  end
end
if not best then
  for _, offer in ipairs(offers) do
    if not best or offer.at < best.at then best = offer end
  end
end

for index = 1, #ask.candidates do
  if index ~= best.index or best.at <= now then
    redis.call('ZREM', KEYS[5 + (index - 1) * 4 + 3], ask.sha)
  end
end
if best.at > now then
  redis.call('ZADD', best.queue, best.at, ask.sha)
  redis.call('PEXPIRE', best.queue, math.ceil((best.at - now) / 1000) + 86400000)
  -- A little over the promise, so that nobody comes a hair too early.
  local over = ask.random * math.min(best.spacing, 250000)
  return {'wait', best.index, math.ceil(best.at - now + over), best.why}
end

local c = best.c
local lease_ms = math.ceil(ask.lease_us / 1000)
redis.call('ZADD', best.window, now, ask.token)
redis.call('PEXPIRE', best.window, math.ceil(c.window_us / 1000) + 1000)
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
count(c.name, c.daily_calls, c.daily_microyuan)
redis.call('PEXPIRE', budget, 8 * 86400000)
return reply
