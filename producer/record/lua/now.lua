-- KEYS: 1 clock   Returns {time, what the server's clock tells} as texts.
local now, told = tell_time()
return {string.format('%.6f', now), string.format('%.6f', told)}
