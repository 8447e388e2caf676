-- What the ends of a lease and of an execution have in common. Times come as text: that is cheaper than to have the
-- server print the same number again for each field. What is published is a hint: a caller who may not publish it has
-- ended the lease all the same.

-- Tells the engine that a member of a flow has ended; nobody else is told.
-- flow_id: as read; unset outside a flow
-- outcome: success, failed or cancelled
local function publish_completion(flow_id, execution_id, outcome)
  if is_set(flow_id) then
    redis.pcall('PUBLISH', 'ff:dag:completions',
      cjson.encode({ execution_id = execution_id, flow_id = flow_id, outcome = outcome }))
  end
end

-- Tells the worker that runs an execution, if it listens, that its lease was taken away: its next renewal would find
-- out, and it need not wait for that.
local function announce_lease_end(execution_id)
  redis.pcall('PUBLISH', 'ffsuper:lease_ends', execution_id)
end

-- Closes an attempt's output stream, if it has one.
local function close_stream(stream_meta, reason, now)
  if redis.call('EXISTS', stream_meta) == 1 then
    redis.call('HSET', stream_meta, 'closed_at', now, 'closed_reason', reason)
  end
end

-- Reads the execution for its lease holder: the fields of the lease guard, the attempt's index as the 8th, and from the
-- 9th on those named here. Refuses anybody else. args: begin with execution_id, lease_id, lease_epoch, attempt_id.
local function require_holder(core, lease_history, args, now_ms, ...)
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_expires_at', 'current_lease_id',
    'current_lease_epoch', 'current_attempt_id', 'terminal_outcome', 'current_attempt_index', ...)
  require_lease(core, lease_history, record, args[2], args[3], args[4], now_ms)
  return record
end

-- Takes an execution out of everything that belongs to its lease.
local function release_lease(lease_current, lease_expiry, worker_leases, active, attempt_timeout, execution_id)
  redis.call('DEL', lease_current)
  redis.call('ZREM', lease_expiry, execution_id)
  redis.call('SREM', worker_leases, execution_id)
  redis.call('ZREM', active, execution_id)
  redis.call('ZREM', attempt_timeout, execution_id)
end

-- Writes to the record what every release of a lease does, and the fields that follow as name, value, ...
local function write_released(core, now, ...)
  redis.call('HSET', core,
    'ownership_state', 'unowned',
    'current_lease_id', '',
    'current_worker_id', '',
    'current_worker_instance_id', '',
    'lease_expires_at', '',
    'lease_last_renewed_at', '',
    'lease_renewal_deadline', '',
    'last_transition_at', now,
    'last_mutation_at', now, ...)
end

-- Writes to the record that the execution has ended, and the fields that follow as name, value, ...
local function write_terminal(core, outcome, public_state, attempt_state, now, ...)
  write_released(core, now,
    'lifecycle_phase', 'terminal',
    'eligibility_state', 'not_applicable',
    'blocking_reason', 'none',
    'blocking_detail', '',
    'terminal_outcome', outcome,
    'attempt_state', attempt_state,
    'public_state', public_state,
    'completed_at', now, ...)
end
