-- Suspensions whose time is over.

-- What a suspension timeout that ends the execution leaves: {terminal_outcome and public_state, close reason, the
-- attempt's end state}. Every other behaviour ends like 'fail'.
local TIMEOUT_ENDS = {
  cancel = { 'cancelled', 'timed_out_cancel', 'ended_cancelled' },
  expire = { 'expired', 'timed_out_expire', 'ended_failure' },
  fail = { 'failed', 'timed_out_fail', 'ended_failure' },
}

local function close_timed_out(keys, execution_id, close_reason, now_ms)
  local suspension, waitpoint, wp_condition, suspension_timeout = keys[2], keys[3], keys[4], keys[7]
  redis.call('HSET', waitpoint, 'state', 'closed', 'closed_at', now_ms, 'close_reason', close_reason)
  redis.call('HSET', wp_condition, 'closed', '1', 'closed_at', now_ms, 'closed_reason', close_reason)
  redis.call('HSET', suspension, 'closed_at', now_ms, 'close_reason', close_reason)
  redis.call('ZREM', suspension_timeout, execution_id)
end

-- Hands the suspension over to an operator; a signal still ends it.
local function escalate(keys, execution_id, attempt_state, timeout_at_ms, now_ms)
  local core, suspension, suspension_timeout = keys[1], keys[2], keys[7]
  redis.call('HSET', core,
    'lifecycle_phase', 'suspended',
    'ownership_state', 'unowned',
    'eligibility_state', 'not_applicable',
    'blocking_reason', 'paused_by_operator',
    'blocking_detail', 'suspension escalated: timeout at ' .. timeout_at_ms,
    'terminal_outcome', 'none',
    'attempt_state', attempt_state or 'attempt_interrupted',
    'public_state', 'suspended',
    'last_mutation_at', now_ms)
  redis.call('HSET', suspension,
    'reason_code', 'waiting_for_operator_review',
    'timeout_at', '',
    'timeout_behavior', '')
  redis.call('ZREM', suspension_timeout, execution_id)
end

-- Ends the execution. Returns its public state.
local function end_timed_out(keys, execution_id, attempt_index, behavior, now_ms)
  local core, attempt, stream_meta, suspended, terminal = keys[1], keys[5], keys[6], keys[8], keys[9]
  local ends = TIMEOUT_ENDS[behavior] or TIMEOUT_ENDS.fail
  local outcome, close_reason, attempt_state = ends[1], ends[2], ends[3]
  local failure_reason = 'suspension_timeout:' .. behavior
  redis.call('HSET', core,
    'lifecycle_phase', 'terminal',
    'ownership_state', 'unowned',
    'eligibility_state', 'not_applicable',
    'blocking_reason', 'none',
    'blocking_detail', '',
    'terminal_outcome', outcome,
    'attempt_state', 'attempt_terminal',
    'public_state', outcome,
    'failure_reason', failure_reason,
    'completed_at', now_ms,
    'current_suspension_id', '',
    'current_waitpoint_id', '',
    'last_transition_at', now_ms,
    'last_mutation_at', now_ms)
  if is_set(attempt_index) then
    redis.call('HSET', attempt,
      'attempt_state', attempt_state,
      'ended_at', now_ms,
      'failure_reason', failure_reason,
      'suspended_at', '',
      'suspension_id', '')
  end
  if redis.call('EXISTS', stream_meta) == 1 then
    redis.call('HSET', stream_meta, 'closed_at', now_ms, 'closed_reason', 'suspension_timeout')
  end
  close_timed_out(keys, execution_id, close_reason, now_ms)
  redis.call('ZREM', suspended, execution_id)
  redis.call('ZADD', terminal, now_ms, execution_id)
  return outcome
end

-- ff_expire_suspension: apply the timeout behaviour of a suspension whose time is over.
-- KEYS  1 core                hash    the execution record
--       2 suspension          hash
--       3 waitpoint           hash    the current one
--       4 wp_condition        hash    the current one's
--       5 attempt             hash    the current one
--       6 stream_meta         hash    the current attempt's; closed when the execution ends
--       7 suspension_timeout  zset    execution id -> timeout
--       8 suspended           zset    the lane's
--       9 terminal            zset    the lane's
--      10 eligible            zset    the lane's
--      11 delayed             zset    not touched
--      12 lease_history       stream  not touched
-- ARGV  1 execution_id
-- Replies  ok('not_found_cleaned')  ok('not_suspended_cleaned')  ok('no_active_suspension_cleaned')
--          ok('not_yet_due')  ok('auto_resume', 'waiting')  ok('escalate', 'suspended')
--          ok(timeout_behavior, public_state)
-- Refuses  invalid_input
register('ff_expire_suspension', function(keys, args)
  local core, suspension, suspension_timeout, suspended, eligible = keys[1], keys[2], keys[7], keys[8], keys[10]
  local execution_id = args[1]
  local function cleaned(reason)
    redis.call('ZREM', suspension_timeout, text_argument(execution_id, 'execution_id'))
    return ok(reason)
  end

  local record = redis.call('HMGET', core, 'lifecycle_phase', 'attempt_state', 'current_attempt_index', 'priority',
    'created_at')
  if record[1] ~= 'suspended' then
    local is_found = record[1] or redis.call('EXISTS', core) == 1
    return cleaned(is_found and 'not_suspended_cleaned' or 'not_found_cleaned')
  end
  local current = redis.call('HMGET', suspension, 'suspension_id', 'closed_at', 'timeout_at', 'timeout_behavior')
  if not is_suspension_open(current[1], current[2]) then
    return cleaned('no_active_suspension_cleaned')
  end
  local timeout_at_ms = tonumber(current[3] or 0)
  if not timeout_at_ms then
    return cleaned('not_yet_due') -- has no timeout, or none any more; the reference raises
  end
  local now_ms = server_time_ms()
  if timeout_at_ms == 0 or timeout_at_ms > now_ms then
    return ok('not_yet_due')
  end
  text_argument(execution_id, 'execution_id')

  local behavior = current[4] or 'fail'
  if behavior == 'auto_resume' or behavior == 'auto_resume_with_timeout_signal' then
    require_keys(keys, 10)
    local indexes = { suspended = suspended, eligible = eligible }
    resume_suspended(core, execution_id, indexes, record[4], record[5], 0, '', now_ms)
    close_timed_out(keys, execution_id, 'timed_out_auto_resume', now_ms)
    return ok('auto_resume', 'waiting')
  end
  if behavior == 'escalate' then
    require_keys(keys, 7)
    escalate(keys, execution_id, record[2], timeout_at_ms, now_ms)
    return ok('escalate', 'suspended')
  end
  require_keys(keys, 9)
  return ok(behavior, end_timed_out(keys, execution_id, record[3], behavior, now_ms))
end)
