-- KEYS: the count, the producer's memory, the epoch. ARGV: until when to remember it, visits, batch.
local last = redis.call('GET', KEYS[2])
if last then
  local batch, result = string.match(last, '^(%d+) (.+)$')
  if batch == ARGV[3] then
    redis.call('SET', KEYS[2], last, 'EXAT', ARGV[1])
    return result
  end
  if tonumber(batch) > tonumber(ARGV[3]) then
    return redis.error_reply('STALE batch ' .. ARGV[3] .. ' came after batch ' .. batch)
  end
elseif redis.call('TIME')[1] + 1800 > tonumber(ARGV[1]) then
  return redis.error_reply('STALE batch ' .. ARGV[3] .. ' came when it may have been forgotten')
end
local epoch = redis.call('GET', KEYS[3]) or '0'
if #epoch > 18 or not string.find(epoch, '^-?%d+$') then
  return redis.error_reply('ERR the epoch is not an integer')
end
local total = redis.call('INCRBY', KEYS[1], ARGV[2])
-- Beyond that a number's text is not that of the integer.
if total >= 100000000000000 or total <= -100000000000000 then
  total = redis.call('GET', KEYS[1])
end
local result = total .. ' ' .. epoch
local kept = redis.pcall('SET', KEYS[2], ARGV[3] .. ' ' .. result, 'EXAT', ARGV[1])
if kept['err'] then
  redis.call('INCRBY', KEYS[1], 0 - ARGV[2])
  return kept
end
return result
