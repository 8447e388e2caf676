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

-- Refuses an execution that is not there to begin a new attempt of.
-- record: lifecycle_phase, ownership_state, eligibility_state, terminal_outcome, attempt_state, ...
local function require_claimable(record)
  local attempt_state = record[5]
  if record[1] ~= 'runnable' then
    refuse('execution_not_leaseable')
  elseif record[2] ~= 'unowned' then
    refuse('lease_conflict')
  elseif record[3] ~= 'eligible_now' or record[4] ~= 'none' then
    refuse('execution_not_leaseable')
  elseif attempt_state == 'running_attempt' then
    refuse('active_attempt_exists')
  elseif attempt_state == 'attempt_interrupted' then
    refuse('use_claim_resumed_execution')
  end
end

-- What all leases that one call takes have in common, in the words of the records.
-- args: from the second on worker_id, worker_instance_id, lane_id
-- renewal_ms: from now to the renewal deadline
local function new_term(args, ttl_ms, renewal_ms, now_ms)
  local expires_at_ms = now_ms + ttl_ms
  local expires_at = tostring(expires_at_ms)
  return {
    worker_id = args[2],
    worker_instance_id = args[3],
    lane_id = args[4],
    now = tostring(now_ms),
    expires_at = expires_at,
    -- To print it as a number once more for each index costs more than to look whether the text says the same.
    expiry_score = tonumber(expires_at) == expires_at_ms and expires_at or expires_at_ms,
    renewal_deadline = tostring(now_ms + renewal_ms),
  }
end

-- old_epoch: the record's
local function new_lease(term, execution_id, lease_id, attempt_id, old_epoch)
  return {
    term = term,
    id = lease_id,
    epoch = tostring(stored_number(old_epoch) + 1),
    attempt_id = attempt_id,
    execution_id = execution_id,
  }
end

-- Writes the lease and the record of an execution that runs under it; more fields of the record may follow, as name,
-- value, ... The caller has taken the grant, and an earlier lease's record, away.
local function write_lease(core, lease_current, lease, ...)
  local term = lease.term
  redis.call('HSET', lease_current,
    'lease_id', lease.id,
    'lease_epoch', lease.epoch,
    'execution_id', lease.execution_id,
    'attempt_id', lease.attempt_id,
    'worker_id', term.worker_id,
    'worker_instance_id', term.worker_instance_id,
    'acquired_at', term.now,
    'expires_at', term.expires_at,
    'last_renewed_at', term.now,
    'renewal_deadline', term.renewal_deadline)
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
    'current_worker_id', term.worker_id,
    'current_worker_instance_id', term.worker_instance_id,
    'current_lane', term.lane_id,
    'lease_acquired_at', term.now,
    'lease_expires_at', term.expires_at,
    'lease_last_renewed_at', term.now,
    'lease_renewal_deadline', term.renewal_deadline,
    'lease_revoked_at', '', -- kept by the reference's first claim, where it stops every renewal of the new lease
    'last_transition_at', term.now,
    'last_mutation_at', term.now, ...)
end

local function index_lease(lease_expiry, worker_leases, active, lease)
  local score, execution_id = lease.term.expiry_score, lease.execution_id
  redis.call('ZADD', lease_expiry, score, execution_id)
  redis.call('SADD', worker_leases, execution_id)
  redis.call('ZADD', active, score, execution_id)
end

-- Writes the records of an attempt that begins under the lease; more fields may follow, as name, value, ...
-- Returns the attempt's type.
local function begin_attempt(attempt, attempts, attempt_index, lease, attempt_type, ...)
  local term = lease.term
  redis.call('HSET', attempt,
    'attempt_id', lease.attempt_id,
    'execution_id', lease.execution_id,
    'attempt_index', attempt_index,
    'attempt_type', attempt_type,
    'attempt_state', 'started',
    'created_at', term.now,
    'started_at', term.now,
    'lease_id', lease.id,
    'lease_epoch', lease.epoch,
    'worker_id', term.worker_id,
    'worker_instance_id', term.worker_instance_id, ...)
  redis.call('ZADD', attempts, term.now, attempt_index)
  redis.call('HSET', attempt .. ':usage', 'last_usage_report_seq', '0')
  return attempt_type
end

-- Returns the type of the attempt to begin, and the fields of its record that say why there is another.
local function next_attempt(core, attempt_state)
  if attempt_state == 'pending_retry_attempt' then
    local pending = redis.call('HMGET', core, 'pending_retry_reason', 'pending_previous_attempt_index')
    return 'retry', 'retry_reason', pending[1] or '', 'previous_attempt_index', pending[2] or ''
  elseif attempt_state == 'pending_replay_attempt' then
    local pending = redis.call('HMGET', core, 'pending_replay_reason', 'pending_replay_requested_by',
      'pending_previous_attempt_index')
    return 'replay', 'replay_reason', pending[1] or '', 'replay_requested_by', pending[2] or '',
      'replayed_from_attempt_index', pending[3] or ''
  end
  return 'initial'
end

-- Begins the attempt that is next under the lease; returns its key, its index and its type.
-- record: as require_claimable has it, then current_lease_epoch, total_attempt_count, started_at; also below
local function begin_next_attempt(core, attempts, record, lease)
  local attempt_index = tostring(stored_number(record[7]))
  local attempt = attempt_key(tag_of(core), lease.execution_id, attempt_index)
  return attempt, attempt_index,
    begin_attempt(attempt, attempts, attempt_index, lease, next_attempt(core, record[5]))
end

-- Writes the lease and the record of an execution whose next attempt has begun.
local function write_new_lease(core, lease_current, record, lease, attempt_index)
  write_lease(core, lease_current, lease,
    'current_attempt_index', attempt_index,
    'current_attempt_id', lease.attempt_id,
    'total_attempt_count', tostring(stored_number(record[7]) + 1),
    'started_at', is_set(record[8]) and record[8] or lease.term.now,
    'pending_retry_reason', '',
    'pending_replay_reason', '',
    'pending_replay_requested_by', '',
    'pending_previous_attempt_index', '')
end

local function append_acquired(lease_history, lease, attempt_index)
  append_history(lease_history,
    'event', 'acquired',
    'lease_id', lease.id,
    'lease_epoch', lease.epoch,
    'attempt_id', lease.attempt_id,
    'attempt_index', attempt_index,
    'worker_id', lease.term.worker_id,
    'ts', lease.term.now)
end

local function lease_reply(lease, attempt_index, attempt_type)
  return ok(lease.id, lease.epoch, lease.term.expires_at, lease.attempt_id, attempt_index, attempt_type)
end
