-- Executions whose time is over: that of an attempt, or of the whole.

local EXPIRED_FROM = {
  eligible_now = 'eligible',
  not_eligible_until_time = 'delayed',
  blocked_by_dependencies = 'blocked:dependencies',
  blocked_by_budget = 'blocked:budget',
  blocked_by_quota = 'blocked:quota',
  blocked_by_route = 'blocked:route',
  blocked_by_operator = 'blocked:operator',
}

local function end_attempt_by_expiry(attempt, stream_meta, attempt_index, reason, now_ms)
  if is_set(attempt_index) then
    redis.call('HSET', attempt, 'attempt_state', 'ended_failure', 'ended_at', now_ms, 'failure_reason', reason)
  end
  close_stream(stream_meta, 'expired', now_ms)
end

local function leave_lane_index(tag, lane_id, eligibility, execution_id)
  local index = EXPIRED_FROM[eligibility or '']
  if index then
    redis.call('ZREM', lane_index_key(tag, lane_id, index), execution_id)
    return
  end
  for _, any in pairs(EXPIRED_FROM) do
    redis.call('ZREM', lane_index_key(tag, lane_id, any), execution_id)
  end
end

-- ff_expire_execution: end an execution as expired; the caller has found that its time is over.
-- KEYS  1 core                hash    the execution record
--       2 attempt             hash    the current attempt
--       3 stream_meta         hash    its output stream
--       4 lease_current       hash    the lease
--       5 lease_history       stream  lease events
--       6 lease_expiry        zset    execution id -> lease expiry
--       7 worker_leases       set     executions leased to an instance; the holder's own is found as well
--       8 active              zset    the lane's leased executions
--       9 terminal            zset    the lane's finished executions
--      10 attempt_timeout     zset    execution id -> end of the attempt's time
--      11 execution_deadline  zset    execution id -> deadline
--      12 suspended           zset    the lane's suspended executions
--      13 suspension_timeout  zset    execution id -> end of its suspension
--      14 suspension          hash    the current suspension
-- ARGV  1 execution_id
--       2 reason  attempt_timeout when absent
-- Replies  ok('expired', previous phase), ok('already_terminal') or ok('not_found_cleaned')
-- Refuses  invalid_input
register('ff_expire_execution', function(keys, args)
  local core, execution_id, reason = keys[1], text_argument(args[1], 'execution_id'), args[2] or 'attempt_timeout'
  local record = redis.call('HMGET', core, 'lifecycle_phase', 'current_attempt_index', 'current_lease_id',
    'current_lease_epoch', 'current_worker_instance_id', 'eligibility_state', 'attempt_state', 'lane_id', 'current_lane')
  local phase, attempt_index = record[1], record[2]
  local missing = not phase and redis.call('EXISTS', core) == 0
  if missing or phase == 'terminal' then
    redis.call('ZREM', keys[10], execution_id)
    redis.call('ZREM', keys[11], execution_id)
    return ok(missing and 'not_found_cleaned' or 'already_terminal')
  end

  local now_ms, tag = server_time_ms(), tag_of(core)
  if phase == 'active' then
    end_attempt_by_expiry(keys[2], keys[3], attempt_index, reason, now_ms)
    redis.call('DEL', keys[4])
    redis.call('ZREM', keys[6], execution_id)
    redis.call('SREM', keys[7], execution_id)
    if is_set(record[5]) then
      redis.call('SREM', worker_leases_key(tag, record[5]), execution_id)
    end
    redis.call('ZREM', keys[8], execution_id)
    append_history(keys[5], 'event', 'released', 'lease_id', record[3] or '', 'lease_epoch', record[4] or '',
      'attempt_index', attempt_index or '', 'reason', 'expired:' .. reason, 'ts', now_ms)
  elseif phase == 'suspended' then
    end_attempt_by_expiry(keys[2], keys[3], attempt_index, reason, now_ms)
    if redis.call('EXISTS', keys[14]) == 1 then
      redis.call('HSET', keys[14], 'closed_at', now_ms, 'close_reason', 'expired:' .. reason)
    end
    redis.call('ZREM', keys[12], execution_id)
    redis.call('ZREM', keys[13], execution_id)
  elseif phase == 'runnable' then
    leave_lane_index(tag, record[8] or record[9] or 'default', record[6], execution_id)
  end
  redis.call('HSET', core,
    'lifecycle_phase', 'terminal', 'ownership_state', 'unowned', 'eligibility_state', 'not_applicable',
    'blocking_reason', 'none', 'blocking_detail', '', 'terminal_outcome', 'expired', 'public_state', 'expired',
    'attempt_state', is_set(attempt_index) and 'attempt_terminal' or record[7] or 'none',
    'failure_reason', reason, 'completed_at', now_ms,
    'current_lease_id', '', 'current_worker_id', '', 'current_worker_instance_id', '', 'lease_expires_at', '',
    'current_suspension_id', '', 'current_waitpoint_id', '',
    'last_transition_at', now_ms, 'last_mutation_at', now_ms)
  redis.call('ZREM', keys[10], execution_id)
  redis.call('ZREM', keys[11], execution_id)
  redis.call('ZADD', keys[9], now_ms, execution_id)
  return ok('expired', phase or '')
end)
