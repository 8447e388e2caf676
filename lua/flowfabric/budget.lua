-- Budgets: create, report usage against the limits, reset. Every time in them is the caller's, stored as it came.

-- How long a report is remembered by its key.
local REPORT_MEMORY_MS = 86400000

-- A usage counter is a signed 64-bit integer. Doubles are exact to 1024 up there, so the bound keeps off the edge.
local MAX_USAGE = 2 ^ 63 - 4096

-- Whether the key holds a budget. A report or a reset that came first leaves a hash without budget_id, which must
-- not keep the budget from ever getting its limits.
local function is_budget(budget)
  local kind = redis.call('TYPE', budget).ok
  return kind ~= 'none' and (kind ~= 'hash' or redis.call('HEXISTS', budget, 'budget_id') == 1)
end

-- Counts an event in the definition. A damaged counter counts as 0: it must not stop what is counted.
local function count_event(budget, counter)
  if type(redis.pcall('HINCRBY', budget, counter, 1)) == 'table' then
    redis.call('HSET', budget, counter, 1)
  end
end

-- When a budget is due for its next reset, as text and as the score that this text reads as; nil without an interval.
local function next_reset(now, interval_ms)
  if not (interval_ms > 0) then
    return nil
  end
  local due = number_argument(now, 'now_ms') + interval_ms
  if due ~= due then
    refuse('invalid_input', 'now_ms must be a number, got: ' .. now)
  end
  local due_text = tostring(due)
  return due_text, tonumber(due_text)
end

-- The number of dimensions with their limits that a new budget gets. Below 1 it is none, whatever the fraction.
local function dimensions_given(args, dim_count)
  if not (dim_count >= 1) then
    return 0
  end
  if not is_command_integer(dim_count) then
    refuse('invalid_input', 'dim_count must be an integer, got: ' .. args[9])
  end
  if not args[9 + 3 * dim_count] then
    refuse('invalid_input', 'dim_count must match the limits given, got: ' .. args[9])
  end
  return dim_count
end

-- ff_create_budget: record a budget with its limits, and schedule its resets.
-- KEYS  1 budget    hash  the definition
--       2 limits    hash  hard:<dimension>, soft:<dimension>
--       3 usage     hash  not touched
--       4 resets    zset  budget id -> next reset
--       5 policies  set   budget ids
-- ARGV  1 budget_id
--       2 scope_type         stored only, like the next four
--       3 scope_id
--       4 enforcement_mode
--       5 on_hard_limit
--       6 on_soft_limit
--       7 reset_interval_ms  number; no resets unless > 0
--       8 now_ms             a number when there are resets
--       9 dim_count          N
--      10 dimensions         N names
--    10+N hard_limits        N numbers; no limit unless > 0
--   10+2N soft_limits        likewise
-- Replies  ok(budget_id)  already_satisfied(budget_id)
-- Refuses  invalid_input
register('ff_create_budget', function(keys, args)
  local budget, limits, resets, policies = keys[1], keys[2], keys[4], keys[5]
  local budget_id, now = text_argument(args[1], 'budget_id'), args[8]
  require_keys(keys, 5) -- here, because the first thing that the reference does is to write to the last one
  if is_budget(budget) then
    redis.call('SADD', policies, budget_id)
    return already_satisfied(budget_id)
  end
  local dim_count = tonumber(args[9])
  if not dim_count then
    -- The index has the id even when this is refused: the reference writes it before it looks at anything.
    redis.call('SADD', policies, budget_id)
    number_argument(args[9], 'dim_count')
  end
  dim_count = dimensions_given(args, dim_count)
  local reset_text, reset_score = next_reset(now, number_argument(args[7], 'reset_interval_ms'))

  redis.call('SADD', policies, budget_id)
  redis.call('HSET', budget,
    'budget_id', budget_id,
    'scope_type', args[2],
    'scope_id', args[3],
    'enforcement_mode', args[4],
    'on_hard_limit', args[5],
    'on_soft_limit', args[6],
    'reset_interval_ms', args[7],
    'breach_count', 0,
    'soft_breach_count', 0,
    'created_at', now,
    'last_updated_at', now)
  for i = 10, 9 + dim_count do
    redis.call('HSET', limits, 'hard:' .. args[i], args[i + dim_count], 'soft:' .. args[i], args[i + 2 * dim_count])
  end
  if reset_text then
    redis.call('HSET', budget, 'next_reset_at', reset_text)
    redis.call('ZADD', resets, reset_score, budget_id)
  end
  return ok(budget_id)
end)

-- A stored limit as a number; nil for none, which is also what damaged text means to the scheduler.
local function limit_of(text)
  local limit = tonumber(text or 0)
  return limit and limit > 0 and limit or nil
end

-- What a report adds, in the order of its arguments: {dimension, delta, usage before, soft limit}. Answers with the
-- first dimension that would go over its hard limit as well: {dimension, usage before, limit as stored}.
local function read_report(usage, limits, args, dim_count)
  local report = {}
  for i = 1, dim_count do
    local dimension = text_argument(args[1 + i], 'dimension')
    local delta = number_argument(args[1 + dim_count + i], 'delta') + 0 -- makes 0 of -0, which HINCRBY cannot read
    local used = stored_number(redis.call('HGET', usage, dimension))
    local limit = redis.call('HMGET', limits, 'hard:' .. dimension, 'soft:' .. dimension)
    local hard_limit = limit_of(limit[1])
    if hard_limit and used + delta > hard_limit then
      return report, { dimension, used, limit[1] }
    end
    report[i] = { dimension, delta, used, limit_of(limit[2]) }
  end
  return report
end

-- Refuses a report with a delta that its counter cannot take.
local function require_countable(report)
  local used_after = {}
  for _, line in ipairs(report) do
    local dimension, delta = line[1], line[2]
    local used = (used_after[dimension] or line[3]) + delta
    if not is_command_integer(delta) or (delta > 0 and used > MAX_USAGE) or (delta < 0 and used < -MAX_USAGE) then
      refuse('invalid_input', 'delta must be an integer that the usage can take, got: ' .. tostring(delta))
    end
    used_after[dimension] = used
  end
end

-- Adds the report to the counters. Answers the usage afterwards by dimension, and the first line over its soft limit.
local function add_usage(usage, report)
  local used_after, soft_breach = {}, nil
  for _, line in ipairs(report) do
    local dimension, delta, used_before, soft_limit = line[1], line[2], line[3], line[4]
    local used = redis.pcall('HINCRBY', usage, dimension, delta)
    if type(used) == 'table' then
      -- Only a damaged counter gets here: it starts again from what can be read of it.
      used = math.floor(used_before) + delta
      redis.call('HSET', usage, dimension, string.format('%.0f', used))
    end
    used_after[dimension] = used
    if soft_limit and used > soft_limit and not soft_breach then
      soft_breach = line
    end
  end
  return used_after, soft_breach
end

-- ff_report_usage_and_check: add usage to a budget, unless one of its hard limits would be exceeded.
-- KEYS  1 usage   hash  <dimension> -> usage
--       2 limits  hash  hard:<dimension>, soft:<dimension>
--       3 budget  hash  the definition
-- ARGV  1 dim_count   N
--       2 dimensions  N names
--     2+N deltas      N integers; negative gives back
--    2+2N now_ms      stored as it is
--    3+2N report_key  a key under the budget's tag: a repeat within a day is not counted; unset for none
-- Replies  ok()  {1, 'ALREADY_APPLIED'}  {1, 'HARD_BREACH', dimension, usage, limit}, nothing added
--          {1, 'SOFT_BREACH', dimension, usage, limit}, all added
-- Refuses  invalid_input
register('ff_report_usage_and_check', function(keys, args)
  local usage, limits, budget = keys[1], keys[2], keys[3]
  local dim_count = number_argument(args[1], 'dim_count')
  local now, report_key = args[2 * dim_count + 2], args[2 * dim_count + 3]
  if is_set(report_key) and redis.call('GET', report_key) then
    return { 1, 'ALREADY_APPLIED' }
  end
  local report, hard_breach = read_report(usage, limits, args, dim_count)
  text_argument(now, 'now_ms')
  require_keys(keys, 3)
  if hard_breach then
    count_event(budget, 'breach_count')
    redis.call('HSET', budget, 'last_breach_at', now, 'last_breach_dim', hard_breach[1], 'last_updated_at', now)
    return { 1, 'HARD_BREACH', hard_breach[1], tostring(hard_breach[2]), hard_breach[3] }
  end
  require_countable(report)

  local used_after, soft_breach = add_usage(usage, report)
  redis.call('HSET', budget, 'last_updated_at', now)
  if is_set(report_key) then
    redis.call('SET', report_key, '1', 'PX', REPORT_MEMORY_MS)
  end
  if not soft_breach then
    return ok()
  end
  count_event(budget, 'soft_breach_count')
  return { 1, 'SOFT_BREACH', soft_breach[1], tostring(used_after[soft_breach[1]]), tostring(soft_breach[4]) }
end)

-- ff_reset_budget: set all usage of a budget to zero, and schedule the next reset.
-- KEYS  1 budget  hash  the definition
--       2 usage   hash  <dimension> -> usage
--       3 resets  zset  budget id -> next reset
-- ARGV  1 budget_id
--       2 now_ms     a number when the budget has an interval
-- Replies  ok(next_reset_at)  0 for none
-- Refuses  invalid_input
register('ff_reset_budget', function(keys, args)
  local budget, usage, resets = keys[1], keys[2], keys[3]
  local budget_id, now = text_argument(args[1], 'budget_id'), text_argument(args[2], 'now_ms')
  -- Text that is no number means no interval: the budget must not stay due for ever.
  local interval_ms = tonumber(redis.call('HGET', budget, 'reset_interval_ms') or 0) or 0
  local reset_text, reset_score = next_reset(now, interval_ms)
  require_keys(keys, 3)

  count_event(budget, 'reset_count')
  for _, dimension in ipairs(redis.call('HKEYS', usage)) do
    redis.call('HSET', usage, dimension, 0)
  end
  redis.call('HSET', budget, 'last_reset_at', now, 'last_updated_at', now, 'last_breach_at', '',
    'last_breach_dim', '')
  if reset_text then
    redis.call('HSET', budget, 'next_reset_at', reset_text)
    redis.call('ZADD', resets, reset_score, budget_id)
    return ok(reset_text)
  end
  redis.call('ZREM', resets, budget_id)
  return ok('0')
end)
