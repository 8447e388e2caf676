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

-- For arguments that are stored as they are: they may be empty, but not absent.
local function text_argument(value, name)
  if value == nil then
    refuse('invalid_input', name .. ' must be given, got: nil')
  end
  return value
end

-- For keys that are written after others: the reference raises half-way at one that was not passed.
local function require_keys(keys, count)
  if #keys < count then
    refuse('invalid_input', 'KEYS must be ' .. count .. ', got: ' .. #keys)
  end
end

-- Whether a command that wants an integer reads this number: Redis prints it with %.17g, from 1e17 on with an
-- exponent. NaN fails the first comparison.
local function is_command_integer(number)
  return number == math.floor(number) and number < 1e17 and number > -1e17
end

-- A number from a field of a record: 0 when it is missing, or damaged. NaN is no score, so it counts as damaged.
local function stored_number(value)
  local number = tonumber(value)
  return number and number == number and number or 0
end
