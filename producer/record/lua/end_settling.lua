-- Forget what uploads with a content were to follow, unless another decision was made meanwhile.
-- KEYS: 1 settling
-- ARGV: 1 {sha256: the content, job: what was followed (JSON)}
-- Returns 1 where it is forgotten.
local a = cjson.decode(ARGV[1])
if redis.call('HGET', KEYS[1], a.sha256) == a.job then
  return redis.call('HDEL', KEYS[1], a.sha256)
end
return 0
