-- KEYS: the count, the epoch. ARGV: what to set, until when that may still be done (in milliseconds).
local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[2]) then
  return redis.error_reply('STALE reset came too late')
end
-- First, for at a key of another type it fails, and then nothing has been changed.
local old = redis.call('GET', KEYS[1])
-- Later than any epoch before, also than those that a loss of data has taken away.
local now = string.format('%d%06d', time[1], time[2])
if redis.call('INCR', KEYS[2]) < tonumber(now) then
  redis.call('SET', KEYS[2], now)
end
redis.call('SET', KEYS[1], ARGV[1])
-- Anything may have stood there, of any length: no more of it than is shown, and whether there is more.
return old and string.sub(old, 1, 1001)
