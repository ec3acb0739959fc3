-- Which set of data is this? Where there is none one begins; where it is not the one that the caller
-- knows, data was lost, which stays noted until somebody has seen to it.
-- KEYS: 1 data set  2 clock
-- ARGV: 1 {known: id that the caller knows ('': none), spare: id for a new set,
--         seen: highest seq that the caller saw, seq_from}
-- Returns the data set's fields and values.
-- include data_set
local a = cjson.decode(ARGV[1])
local now = tell_time()
local id = begin_data_set(KEYS[1], a, now)
local former = redis.call('HGET', KEYS[1], 'former') or ''
if a.known ~= '' and a.known ~= id and not string.find(former, a.known, 1, true) then
  redis.call('HSET', KEYS[1], 'former', former .. a.known .. ' ')
  redis.call('HSETNX', KEYS[1], 'lost_at', string.format('%.6f', now))
end
return redis.call('HGETALL', KEYS[1])
