-- Delays that are over.

-- When the execution is due, in ms. The reference writes no delay_until when it resumes with a delay: then the time
-- stands in the index alone, and what is not even there need not wait.
local function due_ms(delay_until, delayed, execution_id)
  return tonumber(delay_until or 0) or tonumber(redis.call('ZSCORE', delayed, execution_id)) or 0
end

-- ff_promote_delayed: make a delayed execution claimable, once its time has come.
-- KEYS  1 core      hash  the execution record
--       2 delayed   zset  the lane's
--       3 eligible  zset  the lane's
-- ARGV  1 execution_id
--       2 now_ms        number: the caller's clock, which is stored too
-- Replies  ok('promoted')  ok('not_yet_due')
--          ok('not_found_cleaned')  ok('not_runnable_cleaned')  ok('not_delayed_cleaned'), when it was no delayed one
-- Refuses  invalid_input
register('ff_promote_delayed', function(keys, args)
  local core, delayed, eligible = keys[1], keys[2], keys[3]
  local execution_id, now_ms = args[1], number_argument(args[2], 'now_ms')
  local record = redis.call('HMGET', core, 'lifecycle_phase', 'eligibility_state', 'delay_until', 'priority',
    'created_at')
  local function cleaned(reason)
    redis.call('ZREM', delayed, execution_id)
    return ok(reason)
  end
  if record[1] ~= 'runnable' then
    local is_found = record[1] or redis.call('EXISTS', core) == 1
    return cleaned(is_found and 'not_runnable_cleaned' or 'not_found_cleaned')
  elseif record[2] ~= 'not_eligible_until_time' then
    return cleaned('not_delayed_cleaned')
  elseif due_ms(record[3], delayed, execution_id) > now_ms then
    return ok('not_yet_due')
  end
  require_keys(keys, 3)

  local now = tostring(now_ms)
  redis.call('HSET', core,
    'ownership_state', 'unowned',
    'eligibility_state', 'eligible_now',
    'blocking_reason', 'waiting_for_worker',
    'blocking_detail', '',
    'terminal_outcome', 'none',
    'public_state', 'waiting',
    'delay_until', '',
    'last_transition_at', now,
    'last_mutation_at', now)
  redis.call('ZREM', delayed, execution_id)
  add_eligible(eligible, eligible_score(stored_number(record[4]), stored_number(record[5])), execution_id)
  return ok('promoted')
end)
