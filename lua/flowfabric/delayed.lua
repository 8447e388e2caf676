-- Delayed executions whose time has come.

-- ff_promote_delayed: make a delayed execution eligible.
-- KEYS  1 core      hash  the execution record
--       2 delayed   zset  the lane's executions that wait for a time
--       3 eligible  zset  the lane's claimable executions
-- ARGV  1 execution_id
--       2 now_ms  the caller's time
-- Replies  ok('promoted'), ok('not_yet_due'), or ok('not_found_cleaned' / 'not_runnable_cleaned' /
--          'not_delayed_cleaned') when it had no place in the delayed index
-- Refuses  invalid_input
register('ff_promote_delayed', function(keys, args)
  local core, delayed, execution_id = keys[1], keys[2], args[1]
  local now_ms = score_argument(args[2], 'now_ms')
  text_argument(execution_id, 'execution_id')
  local record = redis.call('HMGET', core, 'lifecycle_phase', 'eligibility_state', 'delay_until', 'priority',
    'created_at')
  if not record[1] and redis.call('EXISTS', core) == 0 then
    redis.call('ZREM', delayed, execution_id)
    return ok('not_found_cleaned')
  elseif record[1] ~= 'runnable' then
    redis.call('ZREM', delayed, execution_id)
    return ok('not_runnable_cleaned')
  elseif record[2] ~= 'not_eligible_until_time' then
    redis.call('ZREM', delayed, execution_id)
    return ok('not_delayed_cleaned')
  end
  local due_ms = tonumber(record[3] or 0)
  if not due_ms then
    -- A record of the reference after a resume with a delay: its time stands in the index alone.
    due_ms = tonumber(redis.call('ZSCORE', delayed, execution_id) or 0)
  end
  if due_ms > now_ms then
    return ok('not_yet_due')
  end

  local now_text = tostring(now_ms)
  redis.call('HSET', core,
    'lifecycle_phase', 'runnable', 'ownership_state', 'unowned', 'eligibility_state', 'eligible_now',
    'blocking_reason', 'waiting_for_worker', 'blocking_detail', '', 'terminal_outcome', 'none',
    'public_state', 'waiting', 'delay_until', '', 'last_transition_at', now_text, 'last_mutation_at', now_text)
  redis.call('ZREM', delayed, execution_id)
  redis.call('ZADD', keys[3], eligible_score(tonumber(record[4]) or 0, tonumber(record[5]) or 0), execution_id)
  return ok('promoted')
end)
