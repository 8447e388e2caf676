-- What all ends of a lease and of an execution have in common.

-- Tells the engine that a member of a flow has ended; nobody else is told.
local function publish_completion(flow_id, execution_id, outcome)
  if is_set(flow_id) then
    redis.call('PUBLISH', 'ff:dag:completions',
      cjson.encode({ execution_id = execution_id, flow_id = flow_id, outcome = outcome }))
  end
end

-- Closes an attempt's output stream, if it has one.
local function close_stream(stream_meta, reason, now_ms)
  if redis.call('EXISTS', stream_meta) == 1 then
    redis.call('HSET', stream_meta, 'closed_at', now_ms, 'closed_reason', reason)
  end
end

-- Takes an execution out of everything that belongs to its lease.
local function clear_lease(lease_current, lease_expiry, worker_leases, active, attempt_timeout, execution_id)
  redis.call('DEL', lease_current)
  redis.call('ZREM', lease_expiry, execution_id)
  redis.call('SREM', worker_leases, execution_id)
  redis.call('ZREM', active, execution_id)
  redis.call('ZREM', attempt_timeout, execution_id)
end

-- Fields of a record whose lease was given back by its holder.
local function write_released_core(core, now_ms, ...)
  redis.call('HSET', core,
    'ownership_state', 'unowned', 'current_lease_id', '', 'current_worker_id', '', 'current_worker_instance_id', '',
    'lease_expires_at', '', 'lease_last_renewed_at', '', 'lease_renewal_deadline', '',
    'last_transition_at', now_ms, 'last_mutation_at', now_ms, ...)
end

