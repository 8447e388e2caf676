-- Cancellation, from whatever state an execution is in.

-- Refuses a caller who needs the lease and does not have it. Only an active execution is protected, and only from those
-- who are no operators; who names no lease shall not be asked for it.
local function require_cancel_right(record, source, lease_id, lease_epoch)
  if record[1] ~= 'active' or source == 'operator_override' then
    return
  end
  if record[4] == 'lease_revoked' then
    refuse('lease_revoked')
  end
  if is_set(lease_id) and (record[5] ~= lease_id or record[3] ~= (lease_epoch or '')) then
    refuse('stale_lease')
  end
end

local function cancel_attempt(attempt, stream_meta, attempt_index, reason, now)
  if is_set(attempt_index) then
    redis.call('HSET', attempt,
      'attempt_state', 'ended_cancelled',
      'ended_at', now,
      'failure_reason', 'cancelled: ' .. reason)
  end
  close_stream(stream_meta, 'attempt_cancelled', now)
end

local function cancel_suspension(suspension, waitpoint, wp_condition, now)
  if redis.call('EXISTS', suspension) == 1 then
    redis.call('HSET', suspension, 'closed_at', now, 'close_reason', 'cancelled')
  end
  if redis.call('EXISTS', waitpoint) == 1 then
    redis.call('HSET', waitpoint, 'state', 'closed', 'closed_at', now, 'close_reason', 'cancelled')
  end
  if redis.call('EXISTS', wp_condition) == 1 then
    redis.call('HSET', wp_condition, 'closed', '1', 'closed_at', now, 'closed_reason', 'cancelled')
  end
end

-- Takes the execution out of every index but the terminal one, wherever a caller's outdated reading may have put it.
-- Like the reference, ends at the first key that was not passed.
local function leave_indexes(keys, lane_id, execution_id)
  local lease_expiry, worker_leases, suspension_timeout, terminal = keys[6], keys[7], keys[11], keys[12]
  local attempt_timeout, execution_deadline, eligible, delayed = keys[13], keys[14], keys[15], keys[16]
  local blocked_dependencies, blocked_budget, blocked_quota = keys[17], keys[18], keys[19]
  local blocked_route, blocked_operator = keys[20], keys[21]
  local tag = tag_of(keys[1])
  local active, suspended = lane_index_key(tag, lane_id, 'active'), lane_index_key(tag, lane_id, 'suspended')
  for _, index in ipairs({ eligible, delayed, active, suspended, blocked_dependencies, blocked_budget, blocked_quota,
    blocked_route, blocked_operator, lease_expiry, suspension_timeout, attempt_timeout, execution_deadline }) do
    if index ~= terminal then
      redis.call('ZREM', index, execution_id)
    end
  end
  redis.call('SREM', worker_leases, execution_id)
end

-- ff_cancel_execution: end an execution as cancelled, from any phase.
-- KEYS  1 core                  hash    the execution record
--       2 attempt               hash    the current one
--       3 stream_meta           hash    the current attempt's; closed if it exists and the attempt runs or is suspended
--       4 lease_current         hash
--       5 lease_history         stream
--       6 lease_expiry          zset    execution id -> lease expiry
--       7 worker_leases         set     executions of the holder's worker instance
--       8 suspension            hash
--       9 waitpoint             hash    the current one
--      10 wp_condition          hash    the current one's
--      11 suspension_timeout    zset    execution id -> timeout
--      12 terminal              zset    the lane's, as are 15 to 21; its active and suspended ones are found here
--      13 attempt_timeout       zset    execution id -> timeout
--      14 execution_deadline    zset    execution id -> deadline
--      15 eligible              zset
--      16 delayed               zset
--      17 blocked_dependencies  zset
--      18 blocked_budget        zset
--      19 blocked_quota         zset
--      20 blocked_route         zset
--      21 blocked_operator      zset
-- ARGV  1 execution_id
--       2 reason
--       3 source       operator_override needs no lease; flow_cascade is not announced; empty or absent: the execution
--       4 lease_id     empty or absent: not checked
--       5 lease_epoch  compared as text, when there is a lease_id
-- Replies  ok('cancelled', previous_phase)
-- Refuses  execution_not_found  execution_not_active  lease_revoked  stale_lease  invalid_input
register('ff_cancel_execution', function(keys, args)
  local core, attempt, stream_meta, lease_current, lease_history = keys[1], keys[2], keys[3], keys[4], keys[5]
  local suspension, waitpoint, wp_condition, terminal = keys[8], keys[9], keys[10], keys[12]
  local execution_id, reason, source = args[1], args[2], args[3]
  local record = require_execution(core, 'lifecycle_phase', 'terminal_outcome', 'current_lease_epoch',
    'ownership_state', 'current_lease_id', 'current_attempt_index', 'attempt_state', 'lane_id', 'flow_id')
  local phase, lease_epoch, attempt_index = record[1], record[3], record[6]
  if phase == 'terminal' then
    refuse('execution_not_active', record[2] or '', lease_epoch or '')
  end
  require_cancel_right(record, source, args[4], args[5])
  text_argument(reason, 'reason')
  require_keys(keys, 12)

  local now = tostring(server_time_ms())
  if phase == 'active' then
    cancel_attempt(attempt, stream_meta, attempt_index, reason, now)
    redis.call('DEL', lease_current)
    append_history(lease_history,
      'event', 'released',
      'lease_id', record[5] or '',
      'lease_epoch', lease_epoch or '',
      'attempt_index', attempt_index or '',
      'reason', 'cancelled',
      'ts', now)
  elseif phase == 'suspended' then
    cancel_attempt(attempt, stream_meta, attempt_index, reason, now)
    cancel_suspension(suspension, waitpoint, wp_condition, now)
  end
  local attempt_state = is_set(attempt_index) and 'attempt_terminal' or record[7] or 'none'
  write_terminal(core, 'cancelled', 'cancelled', attempt_state, now,
    'cancellation_reason', reason,
    'cancelled_by', is_set(source) and source or execution_id,
    'current_suspension_id', '',
    'current_waitpoint_id', '')
  leave_indexes(keys, record[8] or 'default', execution_id)
  redis.call('ZADD', terminal, now, execution_id)
  if phase == 'active' then
    announce_lease_end(execution_id)
  end
  if source ~= 'flow_cascade' then
    publish_completion(record[9], execution_id, 'cancelled')
  end
  return ok('cancelled', phase or '')
end)
