-- Capability tokens: comma-separated lists, compared as sets of byte strings.

local MAX_CAPABILITY_BYTES = 4096
local MAX_CAPABILITY_TOKENS = 256

-- The tokens of a list as a set, and how many there were; empty pieces do not count.
local function capability_set(list)
  local set, count = {}, 0
  for token in string.gmatch(list, '[^,]+') do
    set[token] = true
    count = count + 1
  end
  return set, count
end

-- Refuses a list that is over the limits; returns its set.
-- side: 'required' or 'worker', for the detail
local function bounded_capabilities(list, side)
  if #list > MAX_CAPABILITY_BYTES then
    refuse('invalid_capabilities', side .. ':too_many_bytes')
  end
  local set, count = capability_set(list)
  if count > MAX_CAPABILITY_TOKENS then
    refuse('invalid_capabilities', side .. ':too_many_tokens')
  end
  return set
end

-- Refuses a worker that lacks a required token, noting when. Both arguments are lists, or unset.
local function require_capabilities(core, required, offered, now_ms)
  if not is_set(required) and not is_set(offered) then
    return
  end
  local needed = bounded_capabilities(required or '', 'required')
  local held = bounded_capabilities(offered or '', 'worker')
  local missing = {}
  for token in pairs(needed) do
    if not held[token] then
      missing[#missing + 1] = token
    end
  end
  if #missing > 0 then
    table.sort(missing)
    redis.call('HSET', core, 'last_capability_mismatch_at', now_ms)
    refuse('capability_mismatch', table.concat(missing, ','))
  end
end
