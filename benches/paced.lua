-- For wrk: how often its connections ask. What follows `--` on its command line is the pause of each
-- connection between two requests, in milliseconds on average.

local pause

function init(arguments)
  pause = tonumber(arguments[1])
  -- Several wrk at once must not keep time with each other.
  math.randomseed(wrk.port)
end

function delay()
  return math.random(0, 2 * pause)
end
