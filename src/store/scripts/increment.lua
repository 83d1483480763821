-- KEYS: the count, the producer's record, the epoch; then for each item its session, and behind that of a (v)isit
-- the one to make if it is none. ARGV: until when to keep the record, visits without a session, batch; and, with
-- items, what each is ((v)isit, (n)ew visitor, (s)how, (f)orget), and a session's lifetime in milliseconds.
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
local kinds = ARGV[4] or ''
local _, new = string.gsub(kinds, 'n', '')
local counted, given, total = ARGV[2] + new, nil, nil
if not before then
  total = redis.call('INCRBY', KEYS[1], counted)
  given = total - new
  if total >= 100000000000000 or total <= -100000000000000 then
    -- Then those who are new are counted one by one.
    counted, given = counted - new, nil
    redis.call('INCRBY', KEYS[1], 0 - new)
    total = text(total)
  end
end
local results, at, refusal, rest = {}, 3, nil, nil
for item = 1, #kinds do
  local kind = string.sub(kinds, item, item)
  at = at + 1
  local key, result, number, of, since = KEYS[at], '-', nil, nil, nil
  if kind == 'f' then
    result = redis.call('DEL', key)
  elseif kind == 's' then
    number, of, since = string.match(redis.call('GET', key) or '', '^(%S+) (%S+) (%S+)$')
    if of == epoch then
      result = number .. ',' .. since .. ',' .. redis.call('PTTL', key)
    end
  else
    if kind == 'v' then
      local command = before and {'GET', key} or {'GETEX', key, 'PX', ARGV[5]}
      number, of = string.match(redis.call(unpack(command)) or '', '^(%S+) (%S+)')
      at = at + 1
      key = KEYS[at]
    end
    if before then
      -- What it was told when the batch was counted.
      local made = string.match(redis.call('GET', key) or '', '^%S+')
      result = made or number and '=' .. number or '-'
    elseif number and of == epoch then
      result = '=' .. number
    else
      if kind == 'n' and given then
        given = given + 1
        result = given
      else
        result = redis.pcall('INCR', KEYS[1])
        if type(result) == 'table' then
          refusal = result
          break
        end
        counted = counted + 1
        result = text(result)
        total = result
      end
      rest = rest or ' ' .. epoch .. ' ' .. redis.call('TIME')[1]
      local written = redis.pcall('SET', key, result .. rest, 'PX', ARGV[5])
      if written['err'] then
        refusal = written
        break
      end
    end
  end
  results[item] = result
end
local answer = before
if not before then
  answer = total .. ' ' .. epoch
  refusal = refusal or redis.pcall('SET', KEYS[2], ARGV[3] .. ' ' .. answer, 'EXAT', ARGV[1])
  if refusal['err'] then
    redis.call('INCRBY', KEYS[1], 0 - counted)
    -- Those of visitors who came back are not among these.
    at = 3
    for kind in string.gmatch(kinds, '.') do
      at = at + (kind == 'v' and 2 or 1)
      if kind == 'v' or kind == 'n' then
        redis.call('DEL', KEYS[at])
      end
    end
    return refusal
  end
end
return #results == 0 and answer or answer .. ' ' .. table.concat(results, ' ')
