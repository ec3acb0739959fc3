-- One transition of one upload, all of it or nothing: compare state and seq, write the new state,
-- end the lease, enter the next stage, put the callback into the outbox, note the event, count.
-- A second run finds another seq and changes nothing.
-- KEYS: 1 record  2 events  3 counts  4 open:<from>  5 open:<to>
--       6 lease  7 holder  8 crashes  9 due lane of the stage that is left
--       10 due lane of the stage that is entered
--       11 callback entry  12 due lane of its endpoint  13 endpoints
--       14 dead letters  15 dead letter  16 due lane of safe copies
--       17 due lane of audits  18 audits for people  19 audits found explicit  20 doubted content
--       21 data set  22 what is known of the content
--       23 memory  24 its index  25 prints of the content  26 contents to be printed
--       27 what was cleared of looking like another  28 what looked like what
--       29, 30 uploads with this content that wait, and that are decided  31 what is said of it
--       32 settling  33 appeals  34 blocked uploads of the person  35 changes
--       36 uploads that looked like what this one does
--       37 due lane of the stage that acts in the present state  38 clock
-- ARGV: 1 {id, seq and from: as they must be, to, fields {name: value},
--         enters_after_s: delay before the next stage (absent: none is entered),
--         ttl_s: the record's once final (absent: it is kept),
--         drops_copy: its safe copy is to be removed, is_verdict: a machine decided, detail (JSON of the event),
--         callback {item, endpoint, url, data (JSON)} or absent,
--         letter: new dead letter (JSON) or absent, unbury: the dead letter goes,
--         letter_ttl_s: how long it is kept then,
--         audit {to: `due` (this approval was drawn), or how its audit ends, label (JSON of the
--         event), doubt_ttl_s} or absent, seq_from: as in data_set.lua,
--         remember: verdict to keep for the content (JSON) or absent, remember_s: for how long,
--         memory: see remember.lua, or absent,
--         sha256: the content, empty where nobody knows it; subject: whether it is somebody's,
--         keep_s: of the lists of decided uploads,
--         settles {sticky: what is said of the content from now on (JSON), absent: nothing,
--         job (JSON): what those with the same content follow} or absent,
--         appeals: the owner objects, changes_s: see list_change.lua,
--         obeys: a machine's, which a person's word on the content overrules}
-- Returns {1, state, seq}, or {0, present state, present seq} when nothing was changed.
-- include remember
-- include data_set
-- include tell
-- include list_change
local MOST_WORDS = 5
local a = cjson.decode(ARGV[1])
local present =
  redis.call('HMGET', KEYS[1], 'state', 'seq', 'created_at', 'region', 'audit', 'sha256')
if not present[1] then
  return {0, '', '0'}
end
if present[1] ~= a.from or tonumber(present[2]) ~= a.seq then
  return {0, present[1], present[2]}
end
local time, told = tell_time()
local now = string.format('%.6f', time)

-- Take it out of every hand, and an approval that waits for its safe copy out of the record: that
-- may be younger than what the caller had read.
local function let_go()
  redis.call('HDEL', KEYS[1], 'approval')
  redis.call('ZREM', KEYS[6], a.id)
  redis.call('HDEL', KEYS[7], a.id)
  redis.call('HDEL', KEYS[8], a.id)
  redis.call('ZREM', KEYS[9], a.id)
end

local said = a.obeys and a.sha256 ~= '' and redis.call('GET', KEYS[31])
if said and cjson.decode(said).state ~= a.to then
  -- The word came while the machine looked: it is to look once more.
  let_go()
  redis.call('ZADD', KEYS[37], now, a.id)
  return {0, present[1], present[2]}
end
local seq = a.seq + 1
raise_floor(KEYS[21], a, time, seq)

local record = {'state', a.to, 'seq', seq, 'updated_at', now}
for name, value in pairs(a.fields) do
  record[#record + 1] = name
  record[#record + 1] = value
end
redis.call('HSET', KEYS[1], unpack(record))
redis.call('ZREM', KEYS[4], a.id)
if a.ttl_s then
  redis.call('EXPIRE', KEYS[1], math.ceil(a.ttl_s))
else
  redis.call('PERSIST', KEYS[1])
  redis.call('ZADD', KEYS[5], now, a.id)
end

let_go()
if a.enters_after_s then
  redis.call('ZADD', KEYS[10], string.format('%.6f', tonumber(now) + a.enters_after_s), a.id)
end

if a.drops_copy then
  redis.call('ZADD', KEYS[16], now, a.id)
end

list_change(KEYS[35], a, seq, a.to, told)
if a.callback then
  tell(a.callback, KEYS[11], KEYS[12], KEYS[13], now)
end

if a.letter then
  redis.call('ZADD', KEYS[14], now, a.id)
  redis.call('HSET', KEYS[15], 'letter', a.letter, 'at', now)
  redis.call('PERSIST', KEYS[15])
elseif a.unbury then
  redis.call('ZREM', KEYS[14], a.id)
  redis.call('EXPIRE', KEYS[15], math.ceil(a.letter_ttl_s))
end

if a.remember then
  redis.call('SET', KEYS[22], a.remember, 'EX', math.ceil(a.remember_s))
end

local is_decided = a.to == 'approved' or a.to == 'blocked'
if a.sha256 ~= '' then
  redis.call('SREM', KEYS[is_decided and 29 or 30], a.id)
  if is_decided then
    redis.call('SADD', KEYS[30], a.id)
    redis.call('EXPIRE', KEYS[30], math.ceil(a.keep_s))
  elseif a.to == 'held' or a.to == 'reviewing' then
    redis.call('SADD', KEYS[29], a.id)
  else
    redis.call('SREM', KEYS[29], a.id)
  end
end
if a.settles then
  -- One word a person, the last first; an undo lets what somebody else had said hold again.
  local last = redis.call('GET', KEYS[31])
  last = last and cjson.decode(last)
  local new = a.settles.sticky and cjson.decode(a.settles.sticky)
  local gone = new or cjson.decode(a.settles.job).fields
  local words = {new}
  for _, word in ipairs(last and {last, unpack(last.earlier or {})} or {}) do
    word.earlier = nil
    local is_gone = word.decided_by == gone.decided_by and (new or word.state == gone.state)
    if not is_gone and #words < MOST_WORDS then
      words[#words + 1] = word
    end
  end
  local holds = table.remove(words, 1)
  if holds then
    holds.earlier = words[1] and words
    redis.call('SET', KEYS[31], cjson.encode(holds))
  else
    redis.call('DEL', KEYS[31])
  end
  if a.memory then
    a.memory.holds = holds
  end
  redis.call('HSET', KEYS[32], a.sha256, a.settles.job)
end
if a.appeals then
  redis.call('ZADD', KEYS[33], now, a.id)
else
  redis.call('ZREM', KEYS[33], a.id)
end
if a.subject and a.to == 'blocked' then
  redis.call('SADD', KEYS[34], a.id)
  redis.call('EXPIRE', KEYS[34], math.ceil(a.keep_s))
elseif a.subject then
  redis.call('SREM', KEYS[34], a.id)
end

redis.call('HINCRBY', KEYS[3], a.to, 1)
redis.call('HSET', KEYS[3], 'last_transition_at', now)
if a.is_verdict then
  redis.call('HSET', KEYS[3], 'last_verdict_at', now)
end
redis.call('XADD', KEYS[2], '*', 'kind', 'transition', 'upload_id', a.id, 'seq', seq,
  'from', a.from, 'to', a.to, 'at', now, 'created_at', present[3] or '', 'region', present[4] or '',
  'sha256', a.fields.sha256 or present[6] or '', 'tells', a.callback and a.callback.endpoint or '',
  'detail', a.detail)

if a.audit and a.audit.to == 'due' then
  redis.call('HSET', KEYS[1], 'audit', 'due')
  redis.call('ZADD', KEYS[17], now, a.id)
elseif a.audit and (present[5] == 'due' or present[5] == 'person') then
  redis.call('HSET', KEYS[1], 'audit', a.audit.to)
  redis.call('ZREM', KEYS[18], a.id)
  if a.audit.to == 'explicit' then
    redis.call('ZADD', KEYS[19], now, a.id)
    redis.call('SET', KEYS[20], a.id, 'EX', math.ceil(a.audit.doubt_ttl_s))
  end
  redis.call('XADD', KEYS[2], '*', 'kind', 'label', 'upload_id', a.id, 'seq', seq, 'from', '',
    'to', a.audit.to, 'at', now, 'created_at', present[3] or '', 'region', present[4] or '',
    'detail', a.audit.label)
end
if a.memory then
  remember(a.memory, {log = KEYS[23], index = KEYS[24], seen = KEYS[25], wanted = KEYS[26],
    cleared = KEYS[27], met = KEYS[28], events = KEYS[2], alike = KEYS[36]}, now)
end
return {1, a.to, tostring(seq)}
