-- A holder gives its lease up; the same attempt goes on later.

local function require_holder(core, lease_history, args, now_ms)
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_expires_at',
    'current_lease_id', 'current_lease_epoch', 'current_attempt_id', 'terminal_outcome',
    'current_attempt_index', 'created_at')
  require_lease(core, lease_history, record, args[2], args[3], args[4], now_ms)
  text_argument(args[1], 'execution_id')
  return record
end

local function append_release(lease_history, args, attempt_index, reason, now_ms)
  append_history(lease_history, 'event', 'released', 'lease_id', args[2], 'lease_epoch', args[3],
    'attempt_index', attempt_index or '', 'attempt_id', args[4], 'reason', reason, 'ts', now_ms)
end

-- ff_delay_execution: give the lease up until a time.
-- KEYS  1 core             hash    the execution record
--       2 attempt          hash    the current attempt
--       3 lease_current    hash    the lease
--       4 lease_history    stream  lease events
--       5 lease_expiry     zset    execution id -> lease expiry
--       6 worker_leases    set     executions leased to the instance
--       7 active           zset    the lane's leased executions
--       8 delayed          zset    the lane's executions that wait for a time
--       9 attempt_timeout  zset    execution id -> end of the attempt's time
-- ARGV  1 execution_id
--       2 lease_id
--       3 lease_epoch  compared as text
--       4 attempt_id
--       5 delay_until  ms; may be past
-- Replies  ok(delay_until)
-- Refuses  invalid_input  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease
register('ff_delay_execution', function(keys, args)
  local core, lease_history, execution_id = keys[1], keys[4], args[1]
  local now_ms = server_time_ms()
  local record = require_holder(core, lease_history, args, now_ms)
  local until_ms = score_argument(args[5], 'delay_until')

  write_released_core(core, now_ms,
    'lifecycle_phase', 'runnable', 'eligibility_state', 'not_eligible_until_time',
    'blocking_reason', 'waiting_for_delay', 'blocking_detail', 'delayed until ' .. args[5],
    'terminal_outcome', 'none', 'attempt_state', 'attempt_interrupted', 'public_state', 'delayed',
    'delay_until', args[5])
  redis.call('HSET', keys[2], 'attempt_state', 'suspended', 'suspended_at', now_ms, 'suspension_id', 'worker_delay')
  clear_lease(keys[3], keys[5], keys[6], keys[7], keys[9], execution_id)
  redis.call('ZADD', keys[8], until_ms, execution_id)
  append_release(lease_history, args, record[8], 'worker_delay', now_ms)
  return ok(args[5])
end)

-- ff_move_to_waiting_children: give the lease up until the dependencies have ended.
-- KEYS  1 core                  hash    the execution record
--       2 attempt               hash    the current attempt
--       3 lease_current         hash    the lease
--       4 lease_history         stream  lease events
--       5 lease_expiry          zset    execution id -> lease expiry
--       6 worker_leases         set     executions leased to the instance
--       7 active                zset    the lane's leased executions
--       8 blocked_dependencies  zset    the lane's executions that wait for others
--       9 attempt_timeout       zset    execution id -> end of the attempt's time
-- ARGV  1 execution_id
--       2 lease_id
--       3 lease_epoch  compared as text
--       4 attempt_id
-- Replies  ok()
-- Refuses  invalid_input  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease
register('ff_move_to_waiting_children', function(keys, args)
  local core, lease_history, execution_id = keys[1], keys[4], args[1]
  local now_ms = server_time_ms()
  local record = require_holder(core, lease_history, args, now_ms)

  write_released_core(core, now_ms,
    'lifecycle_phase', 'runnable', 'eligibility_state', 'blocked_by_dependencies',
    'blocking_reason', 'waiting_for_children', 'blocking_detail', 'waiting for child executions to complete',
    'terminal_outcome', 'none', 'attempt_state', 'attempt_interrupted', 'public_state', 'waiting_children')
  redis.call('HSET', keys[2], 'attempt_state', 'suspended', 'suspended_at', now_ms,
    'suspension_id', 'waiting_children')
  clear_lease(keys[3], keys[5], keys[6], keys[7], keys[9], execution_id)
  append_release(lease_history, args, record[8], 'waiting_children', now_ms)
  redis.call('ZADD', keys[8], tonumber(record[9]) or 0, execution_id)
  return ok()
end)
