-- Take places in a rate: a bucket that refills evenly, kept as the time at which it is full again.
-- KEYS: 1 bucket
-- ARGV: 1 places a second  2 places in a full bucket  3 places wanted
-- Returns the seconds to wait as text; '0' when the places were taken.
-- Source: the generic cell rate algorithm, ITU-T I.371.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local step = 1 / tonumber(ARGV[1])
local depth = tonumber(ARGV[2]) * step
local full_at = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
local after = full_at + tonumber(ARGV[3]) * step
if after - now > depth then
  return string.format('%.3f', after - now - depth)
end
redis.call('SET', KEYS[1], string.format('%.6f', after), 'PX', math.ceil((after - now) * 1000) + 1)
return '0'
