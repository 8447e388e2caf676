-- The end of a suspension that lets the execution go on: by a signal, by an operator, by its timeout.

-- Whether a suspension lasts, from its fields suspension_id and closed_at.
local function is_suspension_open(suspension_id, closed_at)
  return is_set(suspension_id) and not is_set(closed_at)
end

-- Makes a suspended execution runnable: claimable now, or after the delay.
-- indexes: {suspended, eligible, delayed}, the lane's; delayed is needed with a delay only
-- priority, created_at: the record's, as read; a missing or damaged one counts as 0
-- delay_detail: what an operator reads while the delay runs
local function resume_suspended(core, execution_id, indexes, priority, created_at, delay_ms, delay_detail, now_ms)
  local waits = delay_ms > 0
  redis.call('HSET', core,
    'lifecycle_phase', 'runnable',
    'ownership_state', 'unowned',
    'eligibility_state', waits and 'not_eligible_until_time' or 'eligible_now',
    'blocking_reason', waits and 'waiting_for_resume_delay' or 'waiting_for_worker',
    'blocking_detail', waits and delay_detail or '',
    'terminal_outcome', 'none',
    'attempt_state', 'attempt_interrupted',
    'public_state', waits and 'delayed' or 'waiting',
    'current_suspension_id', '',
    'current_waitpoint_id', '',
    'last_transition_at', now_ms,
    'last_mutation_at', now_ms)
  redis.call('ZREM', indexes.suspended, execution_id)
  if waits then
    -- The reference leaves delay_until empty, and its promotion raises on that for ever.
    redis.call('HSET', core, 'delay_until', tostring(now_ms + delay_ms))
    redis.call('ZADD', indexes.delayed, now_ms + delay_ms, execution_id)
  else
    local score = eligible_score(stored_number(priority), stored_number(created_at))
    add_eligible(indexes.eligible, score, execution_id)
  end
end
