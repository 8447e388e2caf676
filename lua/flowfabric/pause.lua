-- Pauses: the holder gives its lease up, and the same attempt goes on later. Only suspensions are elsewhere.

-- Puts the attempt aside and takes the execution out of everything that belongs to its lease.
-- keys: the first seven, and the ninth, of both functions below
-- why: the kind of pause, in the attempt's suspension_id and in the history
local function pause_attempt(keys, args, attempt_index, why, now)
  local attempt, lease_current, lease_history, lease_expiry = keys[2], keys[3], keys[4], keys[5]
  local worker_leases, active, attempt_timeout = keys[6], keys[7], keys[9]
  redis.call('HSET', attempt, 'attempt_state', 'suspended', 'suspended_at', now, 'suspension_id', why)
  release_lease(lease_current, lease_expiry, worker_leases, active, attempt_timeout, args[1])
  append_history(lease_history,
    'event', 'released',
    'lease_id', args[2],
    'lease_epoch', args[3],
    'attempt_index', attempt_index,
    'attempt_id', args[4],
    'reason', why,
    'ts', now)
end

-- ff_delay_execution: give the lease up until a time.
-- KEYS  1 core             hash    the execution record
--       2 attempt          hash    the current one
--       3 lease_current    hash
--       4 lease_history    stream
--       5 lease_expiry     zset    execution id -> lease expiry
--       6 worker_leases    set     executions of the worker instance
--       7 active           zset    the lane's
--       8 delayed          zset    the lane's
--       9 attempt_timeout  zset    execution id -> timeout
-- ARGV  1 execution_id
--       2 lease_id
--       3 lease_epoch  compared as text
--       4 attempt_id
--       5 delay_until  number, ms; may be past
-- Replies  ok(delay_until)
-- Refuses  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease  invalid_input
register('ff_delay_execution', function(keys, args)
  local core, lease_history, delayed = keys[1], keys[4], keys[8]
  local execution_id, delay_until = args[1], args[5]
  local now_ms = server_time_ms()
  local record = require_holder(core, lease_history, args, now_ms)
  local until_ms = score_argument(delay_until, 'delay_until')
  require_keys(keys, 9)

  local now = tostring(now_ms)
  write_released(core, now,
    'lifecycle_phase', 'runnable',
    'eligibility_state', 'not_eligible_until_time',
    'blocking_reason', 'waiting_for_delay',
    'blocking_detail', 'delayed until ' .. delay_until,
    'terminal_outcome', 'none',
    'attempt_state', 'attempt_interrupted',
    'public_state', 'delayed',
    'delay_until', delay_until)
  pause_attempt(keys, args, record[8] or '', 'worker_delay', now)
  redis.call('ZADD', delayed, until_ms, execution_id)
  return ok(delay_until)
end)

-- ff_move_to_waiting_children: give the lease up until all dependencies have ended.
-- KEYS  1 core                  hash    the execution record
--       2 attempt               hash    the current one
--       3 lease_current         hash
--       4 lease_history         stream
--       5 lease_expiry          zset    execution id -> lease expiry
--       6 worker_leases         set     executions of the worker instance
--       7 active                zset    the lane's
--       8 blocked_dependencies  zset    the lane's
--       9 attempt_timeout       zset    execution id -> timeout
-- ARGV  1 execution_id
--       2 lease_id
--       3 lease_epoch  compared as text
--       4 attempt_id
-- Replies  ok()
-- Refuses  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease  invalid_input
register('ff_move_to_waiting_children', function(keys, args)
  local core, lease_history, blocked_dependencies = keys[1], keys[4], keys[8]
  local execution_id = args[1]
  local now_ms = server_time_ms()
  local record = require_holder(core, lease_history, args, now_ms, 'created_at')
  require_keys(keys, 9)

  local now = tostring(now_ms)
  write_released(core, now,
    'lifecycle_phase', 'runnable',
    'eligibility_state', 'blocked_by_dependencies',
    'blocking_reason', 'waiting_for_children',
    'blocking_detail', 'waiting for child executions to complete',
    'terminal_outcome', 'none',
    'attempt_state', 'attempt_interrupted',
    'public_state', 'waiting_children')
  pause_attempt(keys, args, record[8] or '', 'waiting_children', now)
  redis.call('ZADD', blocked_dependencies, stored_number(record[9]), execution_id)
  return ok()
end)
