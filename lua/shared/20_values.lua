-- Values: what counts as set, numbers in arguments and fields, the clock.
-- A field read by HMGET is a string, or false when missing. In the protocol's words "unset" is missing or empty.

local function is_set(value)
  return value ~= nil and value ~= false and value ~= ''
end

-- The server's clock; the only clock that decides about leases.
local function server_time_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The protocol's own number check: whatever Lua reads as a number passes.
local function number_argument(value, name)
  local number = tonumber(value)
  if not number then
    refuse('invalid_input', name .. ' must be a number, got: ' .. tostring(value))
  end
  return number
end

-- For numbers that a later command would not take (PEXPIREAT, a PX time): the reference raises there, after
-- its first writes; we refuse before them. NaN fails the first comparison.
local function integer_argument(value, name)
  local number = number_argument(value, name)
  if number ~= math.floor(number) or number >= 2 ^ 53 or number <= -2 ^ 53 then
    refuse('invalid_input', name .. ' must be an integer, got: ' .. tostring(value))
  end
  return number
end

-- For numbers that end as a sorted-set score: anything but NaN.
local function score_argument(value, name)
  local number = number_argument(value, name)
  if number ~= number then
    refuse('invalid_input', name .. ' must be a number, got: ' .. tostring(value))
  end
  return number
end
