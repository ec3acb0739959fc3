-- What is remembered of a picture's content; included where that changes. One entry a content.
-- m: {key: content, entry: {state, by, upload_id, note} or absent,
--     forgets: there shall be none, but for what `holds` {state, decided_by}, by: who wants that,
--     refresh: the entry stays but for its prints,
--     id: only if the entry is still this one, seen: prints that were found for it (JSON),
--     seen_ttl_s, wants: upload whose picture is yet to be printed, pair: content it looked like,
--     is_cleared: a person said that it is not the same, met: what it looks like, met_by: upload,
--     is_held: it waits for a person because of that,
--     is_exact: what was decided of its bytes is forgotten, too}
-- k: {log, index, seen, wanted, cleared, met, events, alike}: names of keys
local function remember(m, k, now)
  if m.seen then
    redis.call('SET', k.seen, m.seen, 'EX', math.ceil(m.seen_ttl_s))
  end
  if m.pair then
    redis.call(m.is_cleared and 'SADD' or 'SREM', k.cleared, m.key)
    redis.call('EXPIRE', k.cleared, math.ceil(m.seen_ttl_s))
  end
  if m.met then
    if m.is_held then
      redis.call('ZREMRANGEBYSCORE', k.met, '-inf', tonumber(now) - 3600)
      redis.call('ZADD', k.met, now, m.met .. ' ' .. m.met_by)
    end
    redis.call('SADD', k.alike, m.met_by)
    redis.call('EXPIRE', k.alike, math.ceil(m.seen_ttl_s))
  end
  local seen = redis.call('GET', k.seen) or ''
  if m.wants and seen == '' then
    redis.call('ZADD', k.wanted, now, m.wants)
  end
  local old = redis.call('HGET', k.index, m.key)
  local found = old and redis.call('XRANGE', k.log, old, old)[1]
  local was = {}
  for n = 1, found and #found[2] or 0, 2 do
    was[found[2][n]] = found[2][n + 1]
  end
  if seen == '' then
    seen = was.seen or ''
  end
  local entry = m.entry
  if m.forgets and m.holds then
    if m.holds.state == was.state and m.holds.decided_by == was.by then
      return 0
    end
    entry = {state = m.holds.state, by = m.holds.decided_by, upload_id = '', note = ''}
  end
  if m.refresh and found then
    entry = was
  elseif not entry and not m.forgets then
    return 0
  end
  if m.id and m.id ~= old then
    return 0
  end
  if old then
    redis.call('XDEL', k.log, old)
    redis.call('HDEL', k.index, m.key)
  end
  if entry then
    local id = redis.call('XADD', k.log, '*', 'key', m.key, 'state', entry.state, 'by', entry.by,
      'upload_id', entry.upload_id, 'note', entry.note, 'seen', seen)
    redis.call('HSET', k.index, m.key, id)
  elseif not old and not m.is_exact then
    return 0
  end
  if seen ~= '' or m.is_exact then
    local said = entry or {state = 'forgotten', by = m.by or '', upload_id = '', note = ''}
    redis.call('XADD', k.events, '*', 'kind', 'memory', 'upload_id', said.upload_id, 'seq', 0,
      'from', '', 'to', said.state, 'at', now, 'detail', cjson.encode({
        sha256 = m.key, decided_by = said.by, note = said.note, seen = entry and seen or ''}))
  end
  return 1
end
