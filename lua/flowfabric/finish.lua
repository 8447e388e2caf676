-- Ends of an attempt by its holder: completion and failure.

-- ff_complete_execution: end an execution with success, and store its result.
-- KEYS  1 core                hash    the execution record
--       2 attempt             hash    the current one
--       3 lease_expiry        zset    execution id -> lease expiry
--       4 worker_leases       set     executions of the worker instance
--       5 terminal            zset    the lane's
--       6 lease_current       hash
--       7 lease_history       stream
--       8 active              zset    the lane's
--       9 stream_meta         hash    the current attempt's; closed if it exists
--      10 result              string  the handler's
--      11 attempt_timeout     zset    execution id -> timeout
--      12 execution_deadline  zset    execution id -> deadline
-- ARGV  1 execution_id
--       2 lease_id
--       3 lease_epoch  compared as text
--       4 attempt_id
--       5 result       any bytes; empty or absent: none is stored, an earlier one stays
-- Replies  ok('completed')
-- Refuses  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease  invalid_input
register('ff_complete_execution', function(keys, args)
  local core, attempt, lease_expiry, worker_leases, terminal = keys[1], keys[2], keys[3], keys[4], keys[5]
  local lease_current, lease_history, active, stream_meta = keys[6], keys[7], keys[8], keys[9]
  local result, attempt_timeout, execution_deadline = keys[10], keys[11], keys[12]
  local execution_id = args[1]
  local now_ms = server_time_ms()
  local record = require_holder(core, lease_history, args, now_ms, 'flow_id')
  require_keys(keys, 12)

  local now = tostring(now_ms)
  redis.call('HSET', attempt, 'attempt_state', 'ended_success', 'ended_at', now)
  close_stream(stream_meta, 'attempt_success', now)
  if is_set(args[5]) then
    redis.call('SET', result, args[5])
  end
  write_terminal(core, 'success', 'completed', 'attempt_terminal', now,
    'lease_expired_at', '',
    'lease_revoked_at', '',
    'lease_revoke_reason', '')
  release_lease(lease_current, lease_expiry, worker_leases, active, attempt_timeout, execution_id)
  redis.call('ZREM', execution_deadline, execution_id)
  redis.call('ZADD', terminal, now, execution_id)
  append_history(lease_history,
    'event', 'released',
    'lease_id', args[2],
    'lease_epoch', args[3],
    'attempt_index', record[8] or '',
    'reason', 'completed',
    'ts', now)
  publish_completion(record[9], execution_id, 'success')
  return ok('completed')
end)

-- A pause that the policy does not name, or not as a number.
local DEFAULT_BACKOFF_MS = 1000

-- Returns how long to wait before the next attempt; it may be fractional, negative or infinite, but not NaN.
-- backoff: the policy's member. What is no object counts as missing.
local function backoff_ms(backoff, retry_count)
  if type(backoff) ~= 'table' then
    return DEFAULT_BACKOFF_MS
  end
  local pause_ms
  if backoff.type == 'exponential' then
    local first_ms = tonumber(backoff.initial_delay_ms) or DEFAULT_BACKOFF_MS
    local longest_ms = tonumber(backoff.max_delay_ms) or 60000
    pause_ms = math.min(first_ms * (tonumber(backoff.multiplier) or 2) ^ retry_count, longest_ms)
  elseif backoff.type == 'fixed' then
    pause_ms = tonumber(backoff.delay_ms)
  end
  return pause_ms and pause_ms == pause_ms and pause_ms or DEFAULT_BACKOFF_MS
end

-- Returns when the next attempt may begin, or nil when there is to be none. A policy must not keep a failure from being
-- recorded, so what it says badly counts as not said: no number of retries means none.
local function retry_at_ms(policy_json, retry_count, now_ms)
  if not is_set(policy_json) then
    return nil
  end
  local decoded, policy = pcall(cjson.decode, policy_json)
  if not decoded or type(policy) ~= 'table' then
    return nil
  end
  local is_due = retry_count < (tonumber(policy.max_retries) or 0)
  return is_due and now_ms + backoff_ms(policy.backoff, retry_count) or nil
end

-- Makes the execution wait for its next attempt, which the next claim creates.
local function write_retry(core, delayed, args, attempt_index, retry_count, until_ms, now)
  local reason, until_text = args[5], tostring(until_ms)
  local detail = 'retry backoff until ' .. until_text .. ' (attempt ' .. attempt_index .. ' failed: ' .. reason .. ')'
  write_released(core, now,
    'lifecycle_phase', 'runnable',
    'eligibility_state', 'not_eligible_until_time',
    'blocking_reason', 'waiting_for_retry_backoff',
    'blocking_detail', detail,
    'terminal_outcome', 'none',
    'attempt_state', 'pending_retry_attempt',
    'public_state', 'delayed',
    'pending_retry_reason', reason,
    'pending_previous_attempt_index', attempt_index,
    'retry_count', tostring(retry_count + 1),
    'current_attempt_id', '',
    'delay_until', until_text,
    'failure_reason', reason)
  redis.call('ZADD', delayed, until_ms, args[1])
end

-- ff_fail_execution: end an attempt with a failure, and schedule the next one when the retry policy allows it.
-- KEYS  1 core                hash    the execution record
--       2 attempt             hash    the current one
--       3 lease_expiry        zset    execution id -> lease expiry
--       4 worker_leases       set     executions of the worker instance
--       5 terminal            zset    the lane's
--       6 delayed             zset    the lane's
--       7 lease_current       hash
--       8 lease_history       stream
--       9 active              zset    the lane's
--      10 stream_meta         hash    the current attempt's; closed if it exists
--      11 attempt_timeout     zset    execution id -> timeout
--      12 execution_deadline  zset    execution id -> deadline; a retry keeps it
-- ARGV  1 execution_id
--       2 lease_id
--       3 lease_epoch       compared as text
--       4 attempt_id
--       5 failure_reason
--       6 failure_category
--       7 retry_policy      JSON object: max_retries, backoff; anything else, or absent, for no retry
-- Replies  ok('retry_scheduled', until_ms)  ok('terminal_failed')
-- Refuses  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease  invalid_input
register('ff_fail_execution', function(keys, args)
  local core, attempt, lease_expiry, worker_leases, terminal = keys[1], keys[2], keys[3], keys[4], keys[5]
  local delayed, lease_current, lease_history, active = keys[6], keys[7], keys[8], keys[9]
  local stream_meta, attempt_timeout, execution_deadline = keys[10], keys[11], keys[12]
  local execution_id, failure_reason = args[1], args[5]
  local now_ms = server_time_ms()
  local record = require_holder(core, lease_history, args, now_ms, 'flow_id', 'retry_count')
  text_argument(failure_reason, 'failure_reason')
  text_argument(args[6], 'failure_category')
  local attempt_index, retry_count = record[8] or '', tonumber(record[10]) or 0
  local until_ms = retry_at_ms(args[7], retry_count, now_ms)
  require_keys(keys, until_ms and 11 or 12)

  local now = tostring(now_ms)
  redis.call('HSET', attempt,
    'attempt_state', 'ended_failure',
    'ended_at', now,
    'failure_reason', failure_reason,
    'failure_category', args[6])
  close_stream(stream_meta, 'attempt_failure', now)
  release_lease(lease_current, lease_expiry, worker_leases, active, attempt_timeout, execution_id)
  append_history(lease_history,
    'event', 'released',
    'lease_id', args[2],
    'lease_epoch', args[3],
    'attempt_index', attempt_index,
    'reason', until_ms and 'failed_retry_scheduled' or 'failed_terminal',
    'ts', now)
  if until_ms then
    write_retry(core, delayed, args, attempt_index, retry_count, until_ms, now)
    return ok('retry_scheduled', tostring(until_ms))
  end
  write_terminal(core, 'failed', 'failed', 'attempt_terminal', now, 'failure_reason', failure_reason)
  redis.call('ZREM', execution_deadline, execution_id)
  redis.call('ZADD', terminal, now, execution_id)
  publish_completion(record[9], execution_id, 'failed')
  return ok('terminal_failed')
end)
