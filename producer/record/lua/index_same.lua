-- Put one upload into the list of those with its content, as it stands now.
-- KEYS: 1 record  2, 3 uploads with this content that wait, and that are decided  4 clock
-- ARGV: 1 {id, sha256: the content, as it was read, keep_s: of the list of decided uploads}
-- Returns 1, or 0 where it is none of both, or another picture by now.
local a = cjson.decode(ARGV[1])
local present = redis.call('HMGET', KEYS[1], 'state', 'sha256')
if present[2] ~= a.sha256 then
  return 0
end
if present[1] == 'held' or present[1] == 'reviewing' then
  redis.call('SADD', KEYS[2], a.id)
elseif present[1] == 'approved' or present[1] == 'blocked' then
  redis.call('SADD', KEYS[3], a.id)
  redis.call('EXPIRE', KEYS[3], math.ceil(a.keep_s))
else
  return 0
end
return 1
