-- Put a change of a record into the list of changes; included where a record changes in a way that
-- the web tier would be told of. Whatever the time, each stands behind all that happened before.
-- a: {id, changes_s: how long it is listed}   told: what the server's clock tells
local function list_change(key, a, seq, state, told)
  local oldest = math.max(0, (told - a.changes_s) * 1000)
  redis.call('XADD', key, 'MINID', '~', string.format('%.0f', oldest), '*',
    'id', a.id, 'seq', seq, 'state', state)
end
