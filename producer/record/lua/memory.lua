-- Remember, forget or complete what is known of one content, by itself.
-- KEYS: 1 log  2 index  3 seen  4 wanted  5 cleared  6 met  7 events  8 alike  9 clock
-- ARGV: 1 {see remember.lua}
-- Returns whether there is, or was, an entry that this changed.
-- include remember
local a = cjson.decode(ARGV[1])
return remember(a, {log = KEYS[1], index = KEYS[2], seen = KEYS[3], wanted = KEYS[4],
  cleared = KEYS[5], met = KEYS[6], events = KEYS[7], alike = KEYS[8]}, string.format('%.6f', tell_time()))
