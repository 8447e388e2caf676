-- The execution record and the keys that are built from its name.

-- Reads the named fields of an execution, refusing when there is none. Name lifecycle_phase first: every record
-- has it, so the second look (EXISTS) is needed for missing or damaged records only.
local function require_execution(core, ...)
  local record = redis.call('HMGET', core, ...)
  if not record[1] and redis.call('EXISTS', core) == 0 then
    refuse('execution_not_found')
  end
  return record
end

-- A number that the execution's policy sets. A policy must not keep an execution from going on, so what it says badly
-- counts as not said.
local function policy_number(core, member, default)
  local policy_json = redis.call('GET', (string.gsub(core, ':core$', ':policy')))
  local is_readable, policy = pcall(cjson.decode, policy_json or '')
  return is_readable and type(policy) == 'table' and tonumber(policy[member]) or default
end

-- The hash tag of a key with its braces: '{fp:7}'.
local function tag_of(key)
  return string.match(key, '(%b{})')
end

-- Whether a member of an index is an execution id of the partition, as workers read ids: the tag, and a UUID in one of
-- its spellings. What is none belongs to nobody, whatever has been written under its name.
local function is_execution_id(tag, text)
  if string.sub(text, 1, #tag) ~= tag then
    return false
  end
  local first = #tag + 1
  local uuid = string.match(text, '^:{?([%x-]+)}?$', first) or string.match(text, '^:urn:uuid:{?([%x-]+)}?$', first)
  return uuid ~= nil and #string.gsub(uuid, '%-', '') == 32
end

local function attempt_key(tag, execution_id, attempt_index)
  return 'ff:attempt:' .. tag .. ':' .. execution_id .. ':' .. attempt_index
end

local function lane_index_key(tag, lane_id, index)
  return 'ff:idx:' .. tag .. ':lane:' .. lane_id .. ':' .. index
end

local function worker_leases_key(tag, worker_instance_id)
  return 'ff:idx:' .. tag .. ':worker:' .. worker_instance_id .. ':leases'
end

-- Brings a priority into the range that there is. NaN stays NaN.
local function clamped_priority(number)
  if number < 0 then
    return 0
  end
  return number > 9000 and 9000 or number
end

-- Lowest first: higher priority, then older. Every re-entry recomputes it, so age is kept.
local function eligible_score(priority, created_at_ms)
  return 0 - priority * 1000000000000 + created_at_ms
end

local function append_history(lease_history, ...)
  redis.call('XADD', lease_history, 'MAXLEN', '~', '1000', '*', ...)
end
