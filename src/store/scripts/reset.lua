-- KEYS: the count, the epoch. ARGV: what to set, until when that may still be done (in milliseconds), the
-- least epoch to begin, and `up` where the count is not to be lowered.
-- The reply: whether the count was set, and what stood there.
local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[2]) then
  return redis.error_reply('STALE reset came too late')
end
-- First, for at a key of another type it fails, and then nothing has been changed.
local old = redis.call('GET', KEYS[1])
-- Anything may have stood there, of any length: no more of it than is shown, and whether there is more.
local shown = old and string.sub(old, 1, 1001)
-- By their digits: Lua's numbers do not tell great ones apart.
local function is_below(a, b)
  local negative = string.sub(a, 1, 1) == '-'
  if not string.find(a, '^%-?%d+$') or a == b then
    return false
  elseif negative ~= (string.sub(b, 1, 1) == '-') then
    return negative
  elseif #a ~= #b then
    return (#a < #b) ~= negative
  end
  return (a < b) ~= negative
end
if ARGV[4] == 'up' and old and not is_below(old, ARGV[1]) then
  return {0, shown}
end
-- Later than any epoch before, also than those that a loss of data has taken away.
local epoch = redis.call('INCR', KEYS[2])
for _, least in ipairs({string.format('%d%06d', time[1], time[2]), ARGV[3]}) do
  if epoch < tonumber(least) then
    redis.call('SET', KEYS[2], least)
    epoch = tonumber(least)
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return {1, shown}
