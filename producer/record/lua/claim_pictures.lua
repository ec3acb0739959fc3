-- Give a person pictures to decide that nobody else has in front of them, for a short time.
-- KEYS: 1 what waits, in its order  2 pictures: who has them  3 pictures: until when  4 appeals
-- ARGV: 1 {by: the person, for_s: how long, count: how many at most,
--         ids: which of them (absent: the longest waiting), looks: how many of these are looked at,
--         at: the one to begin with (absent: the first of all),
--         leaves_appeals: those that are in the lane of appeals are not taken}
-- Returns the ids that are this person's then.
local a = cjson.decode(ARGV[1])
local now = tell_time()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
  redis.call('ZREM', KEYS[3], id)
  redis.call('HDEL', KEYS[2], id)
end

local found = {}
local function take(id)
  if a.leaves_appeals and redis.call('ZSCORE', KEYS[4], id) then
    return
  end
  local who = redis.call('HGET', KEYS[2], id)
  if #found < a.count and (not who or who == a.by) then
    redis.call('HSET', KEYS[2], id, a.by)
    redis.call('ZADD', KEYS[3], string.format('%.6f', now + a.for_s), id)
    found[#found + 1] = id
  end
end

if a.ids then
  for _, id in ipairs(a.ids) do
    take(id)
  end
  return found
end
local first = a.at and redis.call('ZRANK', KEYS[1], a.at) or 0
for start = first, first + a.looks - 1, 100 do
  local ids = redis.call('ZRANGE', KEYS[1], start, start + 99)
  for _, id in ipairs(ids) do
    take(id)
  end
  if #ids < 100 or #found >= a.count then
    break
  end
end
return found
