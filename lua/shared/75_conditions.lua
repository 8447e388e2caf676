-- Resume conditions: which signals an execution waits for. One matcher for each required name, in order; an empty name
-- matches every signal. The record lies beside its waitpoint:
--   condition_type  match_mode  minimum_signal_count  total_matchers  satisfied_count  closed  updated_at
--   matcher:<n>:name  matcher:<n>:satisfied  matcher:<n>:signal_id     for n = 0 .. total_matchers - 1
--   closed_at  closed_reason                                           once closed

-- As many as fit into one HSET.
local MAX_MATCHERS = 1330

local function refuse_condition(what, text)
  refuse('invalid_input', 'resume_condition_json must ' .. what .. ', got: ' .. tostring(text))
end

-- Returns a member that is stored as text, or its default.
local function condition_member(json, name, default, text)
  local value = json[name] or default
  if type(value) ~= 'string' and type(value) ~= 'number' then
    refuse_condition('have a text as ' .. name, text)
  end
  return value
end

-- Returns the matchers' names. A number among them is kept a number: no buffered signal has its name.
local function condition_names(json, text)
  local names = json.required_signal_names or {}
  if names == '' then
    names = {}
  end
  if type(names) ~= 'table' then
    refuse_condition('have a list as required_signal_names', text)
  end
  if #names > MAX_MATCHERS then
    refuse_condition('name at most ' .. MAX_MATCHERS .. ' signals', text)
  end
  for _, name in ipairs(names) do
    if type(name) ~= 'string' and type(name) ~= 'number' then
      refuse_condition('have texts in required_signal_names', text)
    end
  end
  return #names == 0 and { '' } or names
end

-- Reads the argument resume_condition_json, refusing what cannot be stored as a condition.
-- Returns {type, mode, minimum, names, signal_ids, satisfied}: signal_ids has the id of the signal that satisfied the
-- matcher of the same position, satisfied is their number. A minimum that is no number is nil, stored as 'nil'.
local function condition_argument(text)
  local readable, json = pcall(cjson.decode, text)
  if readable and type(json) == 'string' then
    json = {}
  end
  if not readable or type(json) ~= 'table' then
    refuse_condition('be a JSON object', text)
  end
  return {
    type = condition_member(json, 'condition_type', 'signal_set', text),
    mode = condition_member(json, 'signal_match_mode', 'any', text),
    minimum = tonumber(json.minimum_signal_count or 1),
    names = condition_names(json, text),
    signal_ids = {},
    satisfied = 0,
  }
end

-- minimum: nil where the condition names none that is a number; one signal is then enough. The reference raises on
-- such a condition at its first match, with the matcher used up.
local function is_condition_satisfied(mode, satisfied, minimum, total)
  if mode == 'all' then
    return satisfied >= total
  end
  return satisfied >= (minimum or 1)
end

-- Gives a signal to the first matcher that takes it.
local function match_buffered_signal(condition, signal_name, signal_id)
  for position, name in ipairs(condition.names) do
    if not condition.signal_ids[position] and (name == '' or name == signal_name) then
      condition.signal_ids[position] = signal_id
      condition.satisfied = condition.satisfied + 1
      return
    end
  end
end

local function write_condition(wp_condition, condition, now_ms)
  local fields = {
    'condition_type', condition.type,
    'match_mode', condition.mode,
    'minimum_signal_count', tostring(condition.minimum),
    'total_matchers', #condition.names,
    'satisfied_count', condition.satisfied,
    'closed', '0',
    'updated_at', now_ms,
  }
  for position, name in ipairs(condition.names) do
    local signal_id = condition.signal_ids[position]
    local matcher, last = 'matcher:' .. position - 1, #fields
    fields[last + 1], fields[last + 2] = matcher .. ':name', name
    fields[last + 3], fields[last + 4] = matcher .. ':satisfied', signal_id and '1' or '0'
    fields[last + 5], fields[last + 6] = matcher .. ':signal_id', signal_id or ''
  end
  redis.call('HSET', wp_condition, unpack(fields))
end

-- Reads a condition that a signal is to be matched with, refusing when there is none, or a closed one.
-- Returns {mode, satisfied, minimum, total, first_name, first_satisfied}: the first matcher mostly is the only one.
local function require_open_condition(wp_condition)
  local record = redis.call('HMGET', wp_condition, 'closed', 'match_mode', 'satisfied_count', 'minimum_signal_count',
    'total_matchers', 'matcher:0:name', 'matcher:0:satisfied')
  if not record[1] and redis.call('EXISTS', wp_condition) == 0 then
    refuse('waitpoint_not_found')
  end
  if record[1] == '1' then
    refuse('waitpoint_closed')
  end
  return {
    mode = record[2],
    satisfied = tonumber(record[3] or 0) or 0,
    minimum = tonumber(record[4] or 1),
    total = tonumber(record[5] or 0) or 0,
    first_name = record[6],
    first_satisfied = record[7],
  }
end

-- Returns the number n of the first matcher that takes the signal, or nil.
local function find_matcher(wp_condition, condition, signal_name)
  local name, satisfied = condition.first_name, condition.first_satisfied
  for n = 0, condition.total - 1 do
    if n > 0 then
      local matcher = redis.call('HMGET', wp_condition, 'matcher:' .. n .. ':name', 'matcher:' .. n .. ':satisfied')
      name, satisfied = matcher[1], matcher[2]
    end
    if satisfied == '0' and (name == '' or name == signal_name) then
      return n
    end
    if not satisfied then
      return nil -- past the end: total_matchers is damaged
    end
  end
end
