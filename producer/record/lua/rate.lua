-- Take places in a rate: a bucket that refills evenly, kept as the time at which it is full again.
-- KEYS: 1 bucket  2 clock
-- ARGV: 1 {per_s: places a second, burst: places in a full bucket, places: wanted}
-- Returns the seconds to wait as text; '0' when the places were taken.
-- Source: the generic cell rate algorithm, ITU-T I.371.
local a = cjson.decode(ARGV[1])
local now = tell_time()
local step = 1 / a.per_s
local depth = a.burst * step
local full_at = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
local after = full_at + a.places * step
if after - now > depth then
  return string.format('%.3f', after - now - depth)
end
redis.call('SET', KEYS[1], string.format('%.6f', after), 'PX', math.ceil((after - now) * 1000) + 1)
return '0'
