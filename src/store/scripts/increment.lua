-- KEYS: the count, the producer's record, the epoch; then two for each item: the session that it names, and
-- the one to make if that is none. ARGV: until when to keep the record, visits without a session, batch; and,
-- with items, what each is ((v)isit, (n)ew visitor, (s)how, (f)orget), and a session's lifetime in milliseconds.
local last = redis.call('GET', KEYS[2])
local before
if last then
  local batch, result = string.match(last, '^(%d+) (.+)$')
  if batch == ARGV[3] then
    redis.call('SET', KEYS[2], last, 'EXAT', ARGV[1])
    before = result
  elseif tonumber(batch) > tonumber(ARGV[3]) then
    return redis.error_reply('STALE batch ' .. ARGV[3] .. ' came after batch ' .. batch)
  end
elseif redis.call('TIME')[1] + 1800 > tonumber(ARGV[1]) then
  return redis.error_reply('STALE batch ' .. ARGV[3] .. ' came when it may have been forgotten')
end
local epoch = redis.call('GET', KEYS[3]) or '0'
if #epoch > 18 or not string.find(epoch, '^-?%d+$') then
  return redis.error_reply('ERR the epoch is not an integer')
end
-- Beyond that a number's text is not that of the integer.
local function text(total)
  if total >= 100000000000000 or total <= -100000000000000 then
    return redis.call('GET', KEYS[1])
  end
  return total
end
local total = before or text(redis.call('INCRBY', KEYS[1], ARGV[2]))
local results, made, refusal, now = {}, {}
for item = 1, #(ARGV[4] or '') do
  local kind = string.sub(ARGV[4], item, item)
  local named, new = KEYS[2 + 2 * item], KEYS[3 + 2 * item]
  local result = '-'
  if kind == 'f' then
    result = redis.call('DEL', named)
  elseif kind == 's' then
    local number, of, since = string.match(redis.call('GET', named) or '', '^(%S+) (%S+) (%S+)$')
    if of == epoch then
      result = number .. ',' .. since .. ',' .. redis.call('PTTL', named)
    end
  elseif before then
    -- What it was told when the batch was counted.
    local number = string.match(redis.call('GET', new) or '', '^%S+')
    local old = not number and kind == 'v' and string.match(redis.call('GET', named) or '', '^%S+')
    result = number or old and '=' .. old or '-'
  else
    local number, of
    if kind == 'v' then
      number, of = string.match(redis.call('GETEX', named, 'PX', ARGV[5]) or '', '^(%S+) (%S+)')
    end
    if number and of == epoch then
      result = '=' .. number
    else
      local next = redis.pcall('INCR', KEYS[1])
      if type(next) == 'table' then
        refusal = next
        break
      end
      result = text(next)
      total = result
      now = now or redis.call('TIME')[1]
      made[#made + 1] = new
      local kept = redis.pcall('SET', new, result .. ' ' .. epoch .. ' ' .. now, 'PX', ARGV[5])
      if kept['err'] then
        refusal = kept
        break
      end
    end
  end
  results[item] = result
end
local answer = before
if not before then
  answer = total .. ' ' .. epoch
  local kept = refusal or redis.pcall('SET', KEYS[2], ARGV[3] .. ' ' .. answer, 'EXAT', ARGV[1])
  if kept['err'] then
    redis.call('INCRBY', KEYS[1], 0 - ARGV[2] - #made)
    for _, key in ipairs(made) do
      redis.call('DEL', key)
    end
    return kept
  end
end
return #results == 0 and answer or answer .. ' ' .. table.concat(results, ' ')
