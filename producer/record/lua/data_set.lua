-- The first seq of a record; included where records begin or go on.
-- A record begins with the seconds since `seq_from`, which grow faster than seqs do: higher than
-- any seq that its id ever had, also where its former record expired or all data was lost. What is
-- faster all the same raises the floor.
local HEADROOM = 60

local function begin_data_set(key, a, now)
  local id = redis.call('HGET', key, 'id')
  if not id then
    id = a.spare
    -- What was lost a moment ago may have run ahead of time.
    local floor = math.max(0, math.floor(now - a.seq_from) + HEADROOM, a.seen)
    redis.call('HSET', key, 'id', id, 'born', string.format('%.6f', now),
      'floor', string.format('%.0f', floor))
  end
  return id
end

local function first_seq(key, a, now)
  begin_data_set(key, a, now)
  local floor = tonumber(redis.call('HGET', key, 'floor') or 0)
  return string.format('%.0f', math.max(1, math.floor(now - a.seq_from), floor + 1))
end

local function raise_floor(key, a, now, seq)
  if seq > math.max(0, now - a.seq_from) + HEADROOM then
    local floor = tonumber(redis.call('HGET', key, 'floor') or 0)
    redis.call('HSET', key, 'floor', string.format('%.0f', math.max(floor, seq)))
  end
end
