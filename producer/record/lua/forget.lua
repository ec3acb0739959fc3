-- Remove every trace of one upload, and note what is to be removed elsewhere: all of it or nothing.
-- KEYS: 1 record  2 forgotten  3 forgotten:facts  4 data set  5.. what is removed, or removed from;
--       last: clock
-- ARGV: 1 {id, seq and created_at: as they were read; empty where there is no record,
--         facts (JSON; absent: there is nothing elsewhere), again_s: when it is looked for again,
--         removals [[command, number of its key, member or nothing], ...]}
-- Returns {1, removed by each removal, ...}, or {0} when the record is another by now.
local a = cjson.decode(ARGV[1])
local present = redis.call('HMGET', KEYS[1], 'seq', 'created_at')
if (present[1] or '') ~= a.seq or (present[2] or '') ~= a.created_at then
  return {0}
end
if a.facts then
  redis.call('HSET', KEYS[3], a.id, a.facts)
  redis.call('ZADD', KEYS[2], string.format('%.6f', tell_time() + a.again_s), a.id)
end
-- The id may be used again at once, and its seq must not fall.
local floor = tonumber(redis.call('HGET', KEYS[4], 'floor') or 0)
if (tonumber(a.seq) or 0) > floor then
  redis.call('HSET', KEYS[4], 'floor', a.seq)
end
local removed = {1}
for _, removal in ipairs(a.removals) do
  local key = KEYS[removal[2]]
  if removal[3] then
    removed[#removed + 1] = redis.call(removal[1], key, removal[3])
  else
    removed[#removed + 1] = redis.call(removal[1], key)
  end
end
return removed
