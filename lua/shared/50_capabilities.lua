-- Capabilities: what an execution requires of a worker, and what a worker offers. Both are lists of tokens with commas
-- between them, compared as sets of bytes.

local MAX_CAPABILITIES_BYTES = 4096
local MAX_CAPABILITIES = 256

-- Refuses a list that is over the limits. Between two commas there need not be a token.
-- side: 'required' or 'worker', for the detail
local function require_capability_limits(list, side)
  if #list > MAX_CAPABILITIES_BYTES then
    refuse('invalid_capabilities', side .. ':too_many_bytes')
  end
  local _, count = string.gsub(list, '[^,]+', '')
  if count > MAX_CAPABILITIES then
    refuse('invalid_capabilities', side .. ':too_many_tokens')
  end
end

-- Returns the required tokens that are not offered, sorted, with commas between them; empty when there are none.
local function missing_capabilities(required, offered)
  local offers, missing = {}, {}
  for token in string.gmatch(offered, '[^,]+') do
    offers[token] = true
  end
  for token in string.gmatch(required, '[^,]+') do
    if not offers[token] then
      offers[token] = true -- a token that is required twice is missing once
      missing[#missing + 1] = token
    end
  end
  table.sort(missing)
  return table.concat(missing, ',')
end

-- Refuses a worker that lacks a required token, and notes when. Both lists may be unset.
local function require_capabilities(core, required, offered, now)
  local is_required, is_offered = is_set(required), is_set(offered)
  if is_required then
    require_capability_limits(required, 'required')
  end
  if is_offered then
    require_capability_limits(offered, 'worker')
  end
  local missing = is_required and missing_capabilities(required, offered or '') or ''
  if missing ~= '' then
    redis.call('HSET', core, 'last_capability_mismatch_at', now)
    refuse('capability_mismatch', missing)
  end
end
