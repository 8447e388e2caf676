-- Cancellation, from whatever state an execution is in.

-- Takes an execution out of the given indexes, ending at the first that was not passed.
local function remove_from(indexes, count, execution_id)
  for position = 1, count do
    if indexes[position] == nil then
      return
    end
    redis.call('ZREM', indexes[position], execution_id)
  end
end

local function end_attempt_by_cancel(attempt, stream_meta, has_attempt, reason, now_ms)
  if has_attempt then
    redis.call('HSET', attempt, 'attempt_state', 'ended_cancelled', 'ended_at', now_ms,
      'failure_reason', 'cancelled: ' .. reason)
  end
  close_stream(stream_meta, 'attempt_cancelled', now_ms)
end

local function close_suspension_by_cancel(suspension, waitpoint, condition, now_ms)
  if redis.call('EXISTS', suspension) == 1 then
    redis.call('HSET', suspension, 'closed_at', now_ms, 'close_reason', 'cancelled')
  end
  if redis.call('EXISTS', waitpoint) == 1 then
    redis.call('HSET', waitpoint, 'state', 'closed', 'closed_at', now_ms, 'close_reason', 'cancelled')
  end
  if redis.call('EXISTS', condition) == 1 then
    redis.call('HSET', condition, 'closed', '1', 'closed_at', now_ms, 'closed_reason', 'cancelled')
  end
end

-- ff_cancel_execution: end an execution as cancelled.
-- KEYS  1 core                  hash    the execution record
--       2 attempt               hash    the current attempt
--       3 stream_meta           hash    its output stream
--       4 lease_current         hash    the lease
--       5 lease_history         stream  lease events
--       6 lease_expiry          zset    execution id -> lease expiry
--       7 worker_leases         set     executions leased to the holder
--       8 suspension            hash    the current suspension
--       9 waitpoint             hash    the current waitpoint
--      10 condition             hash    its condition
--      11 suspension_timeout    zset    execution id -> end of its suspension
--      12 terminal              zset    the lane's finished executions
--      13 attempt_timeout       zset    execution id -> end of the attempt's time
--      14 execution_deadline    zset    execution id -> deadline
--      15 eligible              zset    the lane's claimable executions
--      16 delayed               zset    the lane's executions that wait for a time
--      17 blocked_dependencies  zset    ... for other executions
--      18 blocked_budget        zset    ... for a budget
--      19 blocked_quota         zset    ... for a quota
--      20 blocked_route         zset    ... for a capable worker
--      21 blocked_operator      zset    ... for an operator
-- ARGV  1 execution_id
--       2 reason
--       3 source       operator_override, lease_holder, flow_cascade, ...
--       4 lease_id     the holder's, unless an operator cancels
--       5 lease_epoch  likewise
-- Replies  ok('cancelled', previous phase)
-- Refuses  invalid_input  execution_not_found  execution_not_active  lease_revoked  stale_lease
register('ff_cancel_execution', function(keys, args)
  local core, execution_id, reason, source = keys[1], args[1], args[2], args[3] or ''
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'terminal_outcome',
    'current_lease_id', 'current_lease_epoch', 'current_attempt_index', 'attempt_state', 'lane_id', 'flow_id')
  local phase, attempt_index = record[1], record[6]
  if phase == 'terminal' then
    refuse('execution_not_active', record[3] or '', record[5] or '')
  end
  if phase == 'active' and source ~= 'operator_override' then
    if record[2] == 'lease_revoked' then
      refuse('lease_revoked')
    elseif is_set(args[4]) and (record[4] ~= args[4] or record[5] ~= args[5]) then
      refuse('stale_lease')
    end
  end
  text_argument(execution_id, 'execution_id')
  text_argument(reason, 'reason')

  local now_ms = server_time_ms()
  if phase == 'active' then
    end_attempt_by_cancel(keys[2], keys[3], is_set(attempt_index), reason, now_ms)
    redis.call('DEL', keys[4])
    append_history(keys[5], 'event', 'released', 'lease_id', record[4] or '', 'lease_epoch', record[5] or '',
      'attempt_index', attempt_index or '', 'reason', 'cancelled', 'ts', now_ms)
  elseif phase == 'suspended' then
    end_attempt_by_cancel(keys[2], keys[3], is_set(attempt_index), reason, now_ms)
    close_suspension_by_cancel(keys[8], keys[9], keys[10], now_ms)
  end
  write_released_core(core, now_ms,
    'lifecycle_phase', 'terminal', 'eligibility_state', 'not_applicable', 'blocking_reason', 'none',
    'blocking_detail', '', 'terminal_outcome', 'cancelled', 'public_state', 'cancelled',
    'attempt_state', is_set(attempt_index) and 'attempt_terminal' or record[7] or 'none',
    'cancellation_reason', reason, 'cancelled_by', source ~= '' and source or execution_id,
    'completed_at', now_ms, 'current_suspension_id', '', 'current_waitpoint_id', '')
  local tag, lane_id = tag_of(core), record[8] or 'default'
  remove_from({ keys[15], keys[16], lane_index_key(tag, lane_id, 'active'), lane_index_key(tag, lane_id, 'suspended'),
    keys[17], keys[18], keys[19], keys[20], keys[21], keys[6], keys[11], keys[13], keys[14] }, 13, execution_id)
  redis.call('SREM', keys[7], execution_id)
  redis.call('ZADD', keys[12], now_ms, execution_id)
  if source ~= 'flow_cascade' then
    publish_completion(record[9], execution_id, 'cancelled')
  end
  return ok('cancelled', phase or '')
end)
