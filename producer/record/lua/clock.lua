-- Stands before every script: what time it is, and what the server's clock tells. The last of KEYS is the clock, "<TIME> <lead>": the
-- highest time that the server told, to the second, and by how much ours is ahead of it.
-- Where the server's clock is set back, ours goes on from where it was, at half speed until the
-- server has caught up. So time never falls, and what is due in a minute is due in two at most.
local function tell_time()
  local told = redis.call('TIME')
  local time = tonumber(told[1]) + tonumber(told[2]) / 1000000
  local kept = redis.call('GET', KEYS[#KEYS])
  local last, lead = string.match(kept or '', '^(%S+) (%S+)$')
  last, lead = tonumber(last or time), tonumber(lead or 0)
  local passed = time - last
  if passed < 0 then
    lead = lead - passed
  else
    -- After a minute without a step nobody counted on our time: all of it may go at once.
    lead = math.max(0, lead - passed / (passed > 60 and 1 or 2))
  end
  if passed < 0 or passed >= 1 or not kept then
    -- Full memory must not keep anybody from knowing the time.
    redis.pcall('SET', KEYS[#KEYS], string.format('%.6f %.6f', time, lead))
  end
  return time + lead, time
end
