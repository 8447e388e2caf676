-- Budgets and quotas: resets that are due, breach marks, and counters that follow what they count.

-- ffsuper_reset_budgets: reset the budgets that are due.
-- KEYS  1 resets  zset  budget id -> next reset
-- ARGV  1 since_ms  a score, -inf for all
--       2 offset
--       3 limit
-- Replies  ok(now_ms, seen, still_due, failed, failed_id, why, outcome, count, ...)
-- Refuses  invalid_input
register('ffsuper_reset_budgets', function(keys, args)
  local resets = keys[1]
  local tag = tag_of(resets)
  return sweep(resets, args, function(budget_id, now)
    local budget = 'ff:budget:' .. tag .. ':' .. budget_id
    if redis.call('EXISTS', budget) == 0 then
      redis.call('ZREM', resets, budget_id)
      return 'gone'
    end
    carry_out('ff_reset_budget', { budget, budget .. ':usage', resets }, { budget_id, now })
    return 'reset'
  end)
end)

-- Whether a budget's usage is above one of its hard limits.
local function is_breached(budget)
  local limits = redis.call('HGETALL', budget .. ':limits')
  for position = 1, #limits, 2 do
    local dimension, limit = string.match(limits[position], '^hard:(.*)$'), stored_number(limits[position + 1])
    if dimension and limit > 0 and stored_number(redis.call('HGET', budget .. ':usage', dimension)) > limit then
      return true
    end
  end
  return false
end

-- ffsuper_reconcile_budgets: keep the breach marks of a page of budgets that are never reset.
-- KEYS  1 policies  set  budget ids
-- ARGV  1 cursor  0 to begin with
--       2 count   about how many to look at
-- Replies  ok(cursor, failed, failed_id, why, outcome, count, ...), cursor 0 at the end: gone, unchanged, marked, unmarked
-- Refuses  invalid_input
register('ffsuper_reconcile_budgets', function(keys, args)
  local policies, now = keys[1], tostring(server_time_ms())
  local tag = tag_of(policies)
  return scan(policies, args, function(budget_id)
    local budget = 'ff:budget:' .. tag .. ':' .. budget_id
    if redis.call('EXISTS', budget) == 0 then
      redis.call('SREM', policies, budget_id)
      return 'gone'
    end
    local interval = redis.call('HGET', budget, 'reset_interval_ms')
    if (is_set(interval) and interval ~= '0') or redis.call('EXISTS', budget .. ':limits') == 0 then
      return 'unchanged'
    end
    local is_marked, breached = redis.call('HEXISTS', budget .. ':usage', 'breached_at') == 1, is_breached(budget)
    if breached == is_marked then
      return 'unchanged'
    elseif breached then
      redis.call('HSET', budget .. ':usage', 'breached_at', now)
      return 'marked'
    end
    redis.call('HDEL', budget .. ':usage', 'breached_at')
    return 'unmarked'
  end)
end)

-- Removes those from the set of admitted executions whose guard has run out; returns how many are left. Those that have a
-- stamp were admitted by ffsuper_admit, and keep their place until ffsuper_give_back, however long they run.
local function count_admitted(quota)
  local cursor, stamps = '0', 'ffsuper' .. string.sub(quota, 3) .. ':stamps'
  repeat
    local page = redis.call('SSCAN', quota .. ':admitted_set', cursor, 'COUNT', 500)
    cursor = page[1]
    for _, execution_id in ipairs(page[2]) do
      if redis.call('EXISTS', quota .. ':admitted:' .. execution_id) == 0
        and redis.call('HEXISTS', stamps, execution_id) == 0 then
        redis.call('SREM', quota .. ':admitted_set', execution_id)
      end
    end
  until cursor == '0'
  return redis.call('SCARD', quota .. ':admitted_set')
end

-- ffsuper_reconcile_quotas: trim the windows of a page of quotas, and set their counters to what is admitted.
-- KEYS  1 policies  set  quota policy ids
-- ARGV  1 cursor  0 to begin with
--       2 count   about how many to look at
-- Replies  ok(cursor, failed, failed_id, why, outcome, count, ...), cursor 0 at the end: gone, unchanged, corrected
-- Refuses  invalid_input
register('ffsuper_reconcile_quotas', function(keys, args)
  local policies, now_ms = keys[1], server_time_ms()
  local tag = tag_of(policies)
  return scan(policies, args, function(quota_id)
    local quota = 'ff:quota:' .. tag .. ':' .. quota_id
    local policy = redis.call('HMGET', quota, 'requests_per_window_seconds', 'active_concurrency_cap')
    if not policy[1] and redis.call('EXISTS', quota) == 0 then
      redis.call('SREM', policies, quota_id)
      return 'gone'
    end
    local window_s = stored_number(policy[1])
    if window_s > 0 then
      redis.call('ZREMRANGEBYSCORE', quota .. ':window:requests_per_window', '-inf', now_ms - window_s * 1000)
    end
    if stored_number(policy[2]) <= 0 then
      return 'unchanged'
    end
    local admitted = tostring(count_admitted(quota))
    if (redis.call('GET', quota .. ':concurrency') or '0') == admitted then
      return 'unchanged'
    end
    redis.call('SET', quota .. ':concurrency', admitted)
    return 'corrected'
  end)
end)
