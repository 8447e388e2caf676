-- Ends of an attempt by its holder: completion and failure.

-- ff_complete_execution: end an execution with success, and store its result.
-- KEYS  1 core                hash    the execution record
--       2 attempt             hash    the current attempt
--       3 lease_expiry        zset    execution id -> lease expiry
--       4 worker_leases       set     executions leased to the instance
--       5 terminal            zset    the lane's finished executions
--       6 lease_current       hash    the lease
--       7 lease_history       stream  lease events
--       8 active              zset    the lane's leased executions
--       9 stream_meta         hash    the attempt's output stream, closed if it exists
--      10 result              string  the handler's result
--      11 attempt_timeout     zset    execution id -> end of the attempt's time
--      12 execution_deadline  zset    execution id -> deadline
-- ARGV  1 execution_id
--       2 lease_id
--       3 lease_epoch  compared as text
--       4 attempt_id
--       5 result       bytes; nothing is stored when empty
-- Replies  ok('completed')
-- Refuses  invalid_input  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease
register('ff_complete_execution', function(keys, args)
  local core, execution_id, lease_history = keys[1], args[1], keys[7]
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_expires_at',
    'current_lease_id', 'current_lease_epoch', 'current_attempt_id', 'terminal_outcome',
    'current_attempt_index', 'flow_id')
  local now_ms = server_time_ms()
  require_lease(core, lease_history, record, args[2], args[3], args[4], now_ms)
  text_argument(execution_id, 'execution_id')

  redis.call('HSET', keys[2], 'attempt_state', 'ended_success', 'ended_at', now_ms)
  close_stream(keys[9], 'attempt_success', now_ms)
  if is_set(args[5]) then
    redis.call('SET', keys[10], args[5])
  end
  write_released_core(core, now_ms,
    'lifecycle_phase', 'terminal', 'eligibility_state', 'not_applicable', 'blocking_reason', 'none',
    'blocking_detail', '', 'terminal_outcome', 'success', 'attempt_state', 'attempt_terminal',
    'public_state', 'completed', 'completed_at', now_ms,
    'lease_expired_at', '', 'lease_revoked_at', '', 'lease_revoke_reason', '')
  clear_lease(keys[6], keys[3], keys[4], keys[8], keys[11], execution_id)
  redis.call('ZADD', keys[5], now_ms, execution_id)
  redis.call('ZREM', keys[12], execution_id)
  append_history(lease_history, 'event', 'released', 'lease_id', args[2], 'lease_epoch', args[3],
    'attempt_index', record[8] or '', 'reason', 'completed', 'ts', now_ms)
  publish_completion(record[9], execution_id, 'success')
  return ok('completed')
end)

local DEFAULT_BACKOFF_MS = 1000

-- How long to wait before the next attempt, from the policy's backoff member. What is no backoff counts as none.
local function backoff_ms(backoff, retry_count)
  if type(backoff) ~= 'table' then
    return DEFAULT_BACKOFF_MS
  end
  local pause_ms = DEFAULT_BACKOFF_MS
  if backoff.type == 'exponential' then
    local initial_ms = tonumber(backoff.initial_delay_ms) or 1000
    local longest_ms = tonumber(backoff.max_delay_ms) or 60000
    pause_ms = math.min(initial_ms * (tonumber(backoff.multiplier) or 2) ^ retry_count, longest_ms)
  elseif backoff.type == 'fixed' then
    pause_ms = tonumber(backoff.delay_ms) or DEFAULT_BACKOFF_MS
  end
  -- NaN is no time to wait for.
  return pause_ms == pause_ms and pause_ms or DEFAULT_BACKOFF_MS
end

-- When the next attempt may begin, or nil when there is to be none.
local function retry_at_ms(policy_json, retry_count, now_ms)
  if not is_set(policy_json) then
    return nil
  end
  local decoded, policy = pcall(cjson.decode, policy_json)
  if not decoded or type(policy) ~= 'table' then
    return nil
  end
  if retry_count >= (tonumber(policy.max_retries) or 0) then
    return nil
  end
  return now_ms + backoff_ms(policy.backoff, retry_count)
end

local function schedule_retry(keys, args, record, retry_count, until_ms, now_ms)
  local reason, until_text = args[5], tostring(until_ms)
  write_released_core(keys[1], now_ms,
    'lifecycle_phase', 'runnable', 'eligibility_state', 'not_eligible_until_time',
    'blocking_reason', 'waiting_for_retry_backoff',
    'blocking_detail', 'retry backoff until ' .. until_text .. ' (attempt ' .. (record[8] or '') .. ' failed: '
      .. reason .. ')',
    'terminal_outcome', 'none', 'attempt_state', 'pending_retry_attempt', 'public_state', 'delayed',
    'pending_retry_reason', reason, 'pending_previous_attempt_index', record[8] or '',
    'retry_count', tostring(retry_count + 1), 'current_attempt_id', '', 'delay_until', until_text,
    'failure_reason', reason)
  redis.call('ZADD', keys[6], until_ms, args[1])
end

local function end_with_failure(keys, args, now_ms)
  write_released_core(keys[1], now_ms,
    'lifecycle_phase', 'terminal', 'eligibility_state', 'not_applicable', 'blocking_reason', 'none',
    'blocking_detail', '', 'terminal_outcome', 'failed', 'attempt_state', 'attempt_terminal',
    'public_state', 'failed', 'failure_reason', args[5], 'completed_at', now_ms)
  redis.call('ZREM', keys[12], args[1])
  redis.call('ZADD', keys[5], now_ms, args[1])
end

-- ff_fail_execution: end an attempt with a failure; the retry policy says whether another follows.
-- KEYS  1 core                hash    the execution record
--       2 attempt             hash    the current attempt
--       3 lease_expiry        zset    execution id -> lease expiry
--       4 worker_leases       set     executions leased to the instance
--       5 terminal            zset    the lane's finished executions
--       6 delayed             zset    the lane's executions that wait for a time
--       7 lease_current       hash    the lease
--       8 lease_history       stream  lease events
--       9 active              zset    the lane's leased executions
--      10 stream_meta         hash    the attempt's output stream, closed if it exists
--      11 attempt_timeout     zset    execution id -> end of the attempt's time
--      12 execution_deadline  zset    execution id -> deadline
-- ARGV  1 execution_id
--       2 lease_id
--       3 lease_epoch       compared as text
--       4 attempt_id
--       5 failure_reason
--       6 failure_category
--       7 retry_policy      JSON object; anything else means no retry
-- Replies  ok('retry_scheduled', until_ms) or ok('terminal_failed')
-- Refuses  invalid_input  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease
register('ff_fail_execution', function(keys, args)
  local core, execution_id, lease_history = keys[1], args[1], keys[8]
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_expires_at',
    'current_lease_id', 'current_lease_epoch', 'current_attempt_id', 'terminal_outcome',
    'current_attempt_index', 'retry_count', 'flow_id')
  local now_ms = server_time_ms()
  require_lease(core, lease_history, record, args[2], args[3], args[4], now_ms)
  text_argument(execution_id, 'execution_id')
  text_argument(args[5], 'failure_reason')
  text_argument(args[6], 'failure_category')

  local retry_count = tonumber(record[9]) or 0
  local until_ms = retry_at_ms(args[7], retry_count, now_ms)
  redis.call('HSET', keys[2], 'attempt_state', 'ended_failure', 'ended_at', now_ms,
    'failure_reason', args[5], 'failure_category', args[6])
  close_stream(keys[10], 'attempt_failure', now_ms)
  if until_ms then
    schedule_retry(keys, args, record, retry_count, until_ms, now_ms)
  else
    end_with_failure(keys, args, now_ms)
  end
  clear_lease(keys[7], keys[3], keys[4], keys[9], keys[11], execution_id)
  append_history(lease_history, 'event', 'released', 'lease_id', args[2], 'lease_epoch', args[3],
    'attempt_index', record[8] or '', 'reason', until_ms and 'failed_retry_scheduled' or 'failed_terminal',
    'ts', now_ms)
  if until_ms then
    return ok('retry_scheduled', tostring(until_ms))
  end
  publish_completion(record[10], execution_id, 'failed')
  return ok('terminal_failed')
end)
