-- Take due items into a lease. An item whose lease ran out (its holder died or froze) is taken
-- alone, so that one upload that kills the worker cannot take its neighbours with it.
-- KEYS: 1 lease  2 holder  3 crashes  4.. due lanes, most urgent first
-- ARGV: 1 limit  2 lease seconds  3 token of the new holder  4 most leases at once (0: any)
--       5 busy (1/0): the holder has items in hand; it gets nothing while one waits to be alone
-- Returns a flat list: item, times its holder died, item, ...
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local until_ = string.format('%.6f', now + tonumber(ARGV[2]))
local limit = tonumber(ARGV[1])
local most = tonumber(ARGV[4])
local claimed = {}

local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)
if expired[1] and limit > 0 then
  if ARGV[5] == '1' then
    return claimed
  end
  local item = expired[1]
  local crashes = redis.call('HINCRBY', KEYS[3], item, 1)
  redis.call('ZADD', KEYS[1], until_, item)
  redis.call('HSET', KEYS[2], item, ARGV[3])
  return {item, crashes}
end

if most > 0 then
  limit = math.min(limit, most - redis.call('ZCARD', KEYS[1]))
end
for lane = 4, #KEYS do
  if limit <= 0 then break end
  local due = redis.call('ZRANGEBYSCORE', KEYS[lane], '-inf', now, 'LIMIT', 0, limit)
  for _, item in ipairs(due) do
    redis.call('ZREM', KEYS[lane], item)
    redis.call('ZADD', KEYS[1], until_, item)
    redis.call('HSET', KEYS[2], item, ARGV[3])
    claimed[#claimed + 1] = item
    claimed[#claimed + 1] = redis.call('HGET', KEYS[3], item) or 0
  end
  limit = limit - #due
end
return claimed
