-- Wake-ups: workers without work sleep on a subscription, and are told when an eligible index of one of their lanes stops
-- being empty. They are hints: one can be lost, and a caller who may not use the channel sends none. So nothing that is
-- done for them alone raises.

-- The eligible indexes that were empty before the function that is running added to them.
local filled = {}

-- Adds an execution to a lane's eligible index, or moves it there. Every function that does so goes through here.
-- ...: as for ZADD: score, execution_id; before them NX to leave alone what is there already
-- Returns how many are new: 1 or 0.
local function add_eligible(eligible, ...)
  local added = redis.call('ZADD', eligible, ...)
  if added == 1 and redis.pcall('ZCARD', eligible) == 1 then
    filled[eligible] = true
  end
  return added
end

-- Tells who sleeps. When the function is over, because it may have taken out again what it has added: a new member of a
-- flow is eligible until it gets its edges.
local function announce_filled()
  if not next(filled) then
    return
  end
  local indexes = filled
  filled = {}
  for eligible in pairs(indexes) do
    local partition, lane_id = string.match(eligible, '^ff:idx:{fp:(%d+)}:lane:(.*):eligible$')
    if partition and redis.pcall('EXISTS', eligible) == 1 then
      redis.pcall('PUBLISH', 'ffsuper:eligible:' .. lane_id, partition)
    end
  end
end
