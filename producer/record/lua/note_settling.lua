-- Let others follow what was said of a content before, unless somebody said otherwise meanwhile.
-- KEYS: 1 settling  2 what is said of the content
-- ARGV: 1 {sha256: the content, state: what was said, job: what others follow (JSON)}
-- Returns 1 where they follow.
local a = cjson.decode(ARGV[1])
local said = redis.call('GET', KEYS[2])
if not said or cjson.decode(said).state ~= a.state then
  return 0
end
redis.call('HSET', KEYS[1], a.sha256, a.job)
return 1
