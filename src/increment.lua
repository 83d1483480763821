local last = redis.call('GET', KEYS[2])
if last then
  local batch, result = string.match(last, '^(%d+) (.+)$')
  if batch == ARGV[2] then
    redis.call('SET', KEYS[2], last, 'PX', ARGV[1])
    return result
  end
  if tonumber(batch) > tonumber(ARGV[2]) then
    return redis.error_reply('STALE batch ' .. ARGV[2] .. ' came after batch ' .. batch)
  end
elseif tonumber(redis.call('TIME')[1]) > tonumber(ARGV[4]) then
  return redis.error_reply('STALE batch ' .. ARGV[2] .. ' came when it may have been forgotten')
end
local epoch = redis.call('GET', KEYS[3]) or '0'
local total = redis.call('INCRBY', KEYS[1], ARGV[3])
if total > 9007199254740991 or total < -9007199254740991 then
  total = redis.call('GET', KEYS[1])
else
  total = string.format('%.0f', total)
end
local result = total .. ' ' .. epoch
local kept = redis.pcall('SET', KEYS[2], ARGV[2] .. ' ' .. result, 'PX', ARGV[1])
if kept['err'] then
  redis.call('INCRBY', KEYS[1], '-' .. ARGV[3])
  return kept
end
return result
