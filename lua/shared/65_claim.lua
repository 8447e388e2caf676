-- Taking a lease: what all kinds of claims check and write. Times are written as text, like those of a release.

-- Refuses unless the grant is there and is this worker's; returns when it ends, as stored.
local function require_grant(claim_grant, worker_id)
  local grant = redis.call('HMGET', claim_grant, 'worker_id', 'grant_expires_at')
  if not grant[1] or grant[1] ~= worker_id then
    refuse('invalid_claim_grant')
  end
  return grant[2]
end

-- Whether a grant that is still there has lapsed. A damaged time is past: the worker asks for another grant then.
local function is_grant_over(grant_expires_at, now_ms)
  return is_set(grant_expires_at) and (tonumber(grant_expires_at) or 0) < now_ms
end

-- A lease from now on, in the words of the records.
-- args: begin with execution_id, worker_id, worker_instance_id, lane_id
-- old_epoch: the record's
-- renewal_ms: from now to the renewal deadline
local function new_lease(args, lease_id, attempt_id, old_epoch, ttl_ms, renewal_ms, now_ms)
  return {
    id = lease_id,
    epoch = tostring(stored_number(old_epoch) + 1),
    attempt_id = attempt_id,
    execution_id = args[1],
    worker_id = args[2],
    worker_instance_id = args[3],
    lane_id = args[4],
    now = tostring(now_ms),
    expires_at_ms = now_ms + ttl_ms,
    expires_at = tostring(now_ms + ttl_ms),
    renewal_deadline = tostring(now_ms + renewal_ms),
  }
end

-- Uses the grant up, and writes the lease and the record of an execution that runs under it; more fields of the record
-- may follow, as name, value, ...
local function write_lease(core, claim_grant, lease_current, lease, ...)
  redis.call('DEL', claim_grant, lease_current)
  redis.call('HSET', lease_current,
    'lease_id', lease.id,
    'lease_epoch', lease.epoch,
    'execution_id', lease.execution_id,
    'attempt_id', lease.attempt_id,
    'worker_id', lease.worker_id,
    'worker_instance_id', lease.worker_instance_id,
    'acquired_at', lease.now,
    'expires_at', lease.expires_at,
    'last_renewed_at', lease.now,
    'renewal_deadline', lease.renewal_deadline)
  redis.call('HSET', core,
    'lifecycle_phase', 'active',
    'ownership_state', 'leased',
    'eligibility_state', 'not_applicable',
    'blocking_reason', 'none',
    'blocking_detail', '',
    'terminal_outcome', 'none',
    'attempt_state', 'running_attempt',
    'public_state', 'active',
    'current_lease_id', lease.id,
    'current_lease_epoch', lease.epoch,
    'current_worker_id', lease.worker_id,
    'current_worker_instance_id', lease.worker_instance_id,
    'current_lane', lease.lane_id,
    'lease_acquired_at', lease.now,
    'lease_expires_at', lease.expires_at,
    'lease_last_renewed_at', lease.now,
    'lease_renewal_deadline', lease.renewal_deadline,
    'lease_revoked_at', '', -- kept by the reference's first claim, where it stops every renewal of the new lease
    'last_transition_at', lease.now,
    'last_mutation_at', lease.now, ...)
end

local function index_lease(lease_expiry, worker_leases, active, lease)
  redis.call('ZADD', lease_expiry, lease.expires_at_ms, lease.execution_id)
  redis.call('SADD', worker_leases, lease.execution_id)
  redis.call('ZADD', active, lease.expires_at_ms, lease.execution_id)
end

-- Writes the records of an attempt that begins under the lease; more fields may follow, as name, value, ...
-- Returns the attempt's type.
local function begin_attempt(attempt, attempts, attempt_index, lease, attempt_type, ...)
  redis.call('HSET', attempt,
    'attempt_id', lease.attempt_id,
    'execution_id', lease.execution_id,
    'attempt_index', attempt_index,
    'attempt_type', attempt_type,
    'attempt_state', 'started',
    'created_at', lease.now,
    'started_at', lease.now,
    'lease_id', lease.id,
    'lease_epoch', lease.epoch,
    'worker_id', lease.worker_id,
    'worker_instance_id', lease.worker_instance_id, ...)
  redis.call('ZADD', attempts, lease.now, attempt_index)
  redis.call('HSET', attempt .. ':usage', 'last_usage_report_seq', '0')
  return attempt_type
end

local function lease_reply(lease, attempt_index, attempt_type)
  return ok(lease.id, lease.epoch, lease.expires_at, lease.attempt_id, attempt_index, attempt_type)
end
