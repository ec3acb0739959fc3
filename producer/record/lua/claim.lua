-- Take due items into a lease. An item whose holder died or froze is taken alone, so that one
-- upload that kills the worker cannot take its neighbours with it: when its lease has run out, and
-- as well when a later holder gave it back unharmed.
-- KEYS: 1 lease  2 holder  3 crashes  4.. due lanes, most urgent first; last: clock
-- ARGV: 1 {limit, lease_s, token, most_leased (leases at once; 0: any),
--         busy: the holder has items in hand; it gets nothing while one waits to be alone}
-- Returns a flat list: item, times its holder died, item, ...
local a = cjson.decode(ARGV[1])
local now = tell_time()
local until_ = string.format('%.6f', now + a.lease_s)
local limit = a.limit
local claimed = {}

-- After a write that is always allowed, a script may go on while Redis is full.
redis.call('ZREM', KEYS[1], '')

local function take(item, crashes)
  redis.call('ZADD', KEYS[1], until_, item)
  redis.call('HSET', KEYS[2], item, a.token)
  claimed[#claimed + 1] = item
  claimed[#claimed + 1] = crashes
end

if a.most_leased > 0 then
  local held = redis.call('ZCOUNT', KEYS[1], string.format('(%.6f', now), '+inf')
  limit = math.min(limit, a.most_leased - held)
end
if limit <= 0 then
  return claimed
end
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)
if expired[1] then
  if not a.busy then
    take(expired[1], redis.call('HINCRBY', KEYS[3], expired[1], 1))
  end
  return claimed
end
for lane = 4, #KEYS - 1 do
  local due = redis.call('ZRANGEBYSCORE', KEYS[lane], '-inf', now, 'LIMIT', 0, limit)
  for _, item in ipairs(due) do
    local crashes = tonumber(redis.call('HGET', KEYS[3], item) or 0)
    if crashes > 0 and (a.busy or #claimed > 0) then
      return claimed
    end
    redis.call('ZREM', KEYS[lane], item)
    take(item, crashes)
    if crashes > 0 then
      return claimed
    end
  end
  limit = limit - #due
  if limit <= 0 then break end
end
return claimed
