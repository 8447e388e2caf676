-- Executions whose time is over: that of an attempt, or the whole execution's.

-- Eligibility state -> the lane's index that holds such a runnable execution.
local RUNNABLE_INDEXES = {
  eligible_now = 'eligible',
  not_eligible_until_time = 'delayed',
  blocked_by_dependencies = 'blocked:dependencies',
  blocked_by_budget = 'blocked:budget',
  blocked_by_quota = 'blocked:quota',
  blocked_by_route = 'blocked:route',
  blocked_by_operator = 'blocked:operator',
}

local function expire_attempt(attempt, stream_meta, attempt_index, reason, now)
  if is_set(attempt_index) then
    redis.call('HSET', attempt, 'attempt_state', 'ended_failure', 'ended_at', now, 'failure_reason', reason)
  end
  close_stream(stream_meta, 'expired', now)
end

-- instance_id: the holder's; callers that do not know it pass another worker_leases key.
local function expire_lease(keys, execution_id, instance_id)
  local core, lease_current, lease_expiry, worker_leases, active = keys[1], keys[4], keys[6], keys[7], keys[8]
  redis.call('DEL', lease_current)
  redis.call('ZREM', lease_expiry, execution_id)
  redis.call('SREM', worker_leases, execution_id)
  if is_set(instance_id) then
    redis.call('SREM', worker_leases_key(tag_of(core), instance_id), execution_id)
  end
  redis.call('ZREM', active, execution_id)
end

local function expire_suspension(keys, execution_id, reason, now)
  local suspended, suspension_timeout, suspension = keys[12], keys[13], keys[14]
  if redis.call('EXISTS', suspension) == 1 then
    redis.call('HSET', suspension, 'closed_at', now, 'close_reason', 'expired:' .. reason)
  end
  redis.call('ZREM', suspended, execution_id)
  redis.call('ZREM', suspension_timeout, execution_id)
end

-- Takes a runnable execution out of its lane's index: out of all of them when its state does not say which.
local function leave_lane(core, lane_id, eligibility_state, execution_id)
  local tag, name = tag_of(core), RUNNABLE_INDEXES[eligibility_state]
  if name then
    redis.call('ZREM', lane_index_key(tag, lane_id, name), execution_id)
    return
  end
  for _, any in pairs(RUNNABLE_INDEXES) do
    redis.call('ZREM', lane_index_key(tag, lane_id, any), execution_id)
  end
end

local function write_expired(core, attempt_state, reason, now)
  redis.call('HSET', core,
    'lifecycle_phase', 'terminal',
    'ownership_state', 'unowned',
    'eligibility_state', 'not_applicable',
    'blocking_reason', 'none',
    'blocking_detail', '',
    'terminal_outcome', 'expired',
    'attempt_state', attempt_state,
    'public_state', 'expired',
    'failure_reason', reason,
    'completed_at', now,
    'current_lease_id', '',
    'current_worker_id', '',
    'current_worker_instance_id', '',
    'lease_expires_at', '',
    'current_suspension_id', '',
    'current_waitpoint_id', '',
    'last_transition_at', now,
    'last_mutation_at', now)
end

-- ff_expire_execution: end an execution as expired; that its time is over is the caller's word.
-- KEYS  1 core                hash    the execution record
--       2 attempt             hash    the current one
--       3 stream_meta         hash    the current attempt's; closed if it exists and the attempt runs or is suspended
--       4 lease_current       hash
--       5 lease_history       stream
--       6 lease_expiry        zset    execution id -> lease expiry
--       7 worker_leases       set     of any worker instance: the holder's own one is found here
--       8 active              zset    the lane's
--       9 terminal            zset    the lane's
--      10 attempt_timeout     zset    execution id -> timeout
--      11 execution_deadline  zset    execution id -> deadline
--      12 suspended           zset    the lane's
--      13 suspension_timeout  zset    execution id -> timeout
--      14 suspension          hash
-- ARGV  1 execution_id
--       2 reason        absent for attempt_timeout
-- Replies  ok('expired', previous_phase)  ok('already_terminal')  ok('not_found_cleaned')
-- Refuses  invalid_input
register('ff_expire_execution', function(keys, args)
  local core, attempt, stream_meta, lease_history, terminal = keys[1], keys[2], keys[3], keys[5], keys[9]
  local attempt_timeout, execution_deadline = keys[10], keys[11]
  local execution_id, reason = text_argument(args[1], 'execution_id'), args[2] or 'attempt_timeout'
  local record = redis.call('HMGET', core, 'lifecycle_phase', 'current_attempt_index', 'current_lease_id',
    'current_lease_epoch', 'current_worker_instance_id', 'eligibility_state', 'attempt_state', 'lane_id',
    'current_lane')
  local phase, attempt_index = record[1], record[2]
  require_keys(keys, phase == 'suspended' and 14 or 11)
  local is_missing = not phase and redis.call('EXISTS', core) == 0
  redis.call('ZREM', attempt_timeout, execution_id)
  redis.call('ZREM', execution_deadline, execution_id)
  if is_missing then
    return ok('not_found_cleaned')
  elseif phase == 'terminal' then
    return ok('already_terminal')
  end

  local now = tostring(server_time_ms())
  if phase == 'active' then
    expire_attempt(attempt, stream_meta, attempt_index, reason, now)
    expire_lease(keys, execution_id, record[5])
    announce_lease_end(execution_id)
    append_history(lease_history,
      'event', 'released',
      'lease_id', record[3] or '',
      'lease_epoch', record[4] or '',
      'attempt_index', attempt_index or '',
      'reason', 'expired:' .. reason,
      'ts', now)
  elseif phase == 'suspended' then
    expire_attempt(attempt, stream_meta, attempt_index, reason, now)
    expire_suspension(keys, execution_id, reason, now)
  elseif phase == 'runnable' then
    leave_lane(core, record[8] or record[9] or 'default', record[6], execution_id)
  end
  write_expired(core, is_set(attempt_index) and 'attempt_terminal' or record[7] or 'none', reason, now)
  redis.call('ZADD', terminal, now, execution_id)
  return ok('expired', phase or '')
end)
