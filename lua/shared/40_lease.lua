-- The lease guard: what every write by a lease holder must pass, and the marking of a lease that ran out.

-- Closes the output stream of the attempt whose lease ran out, unless it is closed already. The stream's
-- key is built from the core key, whose caller passes no stream key.
local function close_expired_stream(core, attempt_index, now_ms)
  local tag = tag_of(core)
  local execution_id = string.match(core, '^[^}]*}:(.*):core$')
  if not execution_id then
    return
  end
  local stream_meta = 'ff:stream:' .. tag .. ':' .. execution_id .. ':' .. attempt_index .. ':meta'
  if redis.call('EXISTS', stream_meta) == 1 and not is_set(redis.call('HGET', stream_meta, 'closed_at')) then
    redis.call('HSET', stream_meta, 'closed_at', now_ms, 'closed_reason', 'lease_expired')
  end
end

-- Marks the lease of an active execution as expired; the caller has found that its time is over.
-- It stays in every index: taking it over is the reclaim's work. history_length: nil for the usual one.
local function mark_lease_expired(core, lease_history, now_ms, history_length)
  local record = redis.call('HMGET', core, 'ownership_state', 'lifecycle_phase', 'eligibility_state',
    'terminal_outcome', 'current_lease_id', 'current_lease_epoch', 'current_attempt_index', 'current_attempt_id',
    'current_worker_id', 'current_worker_instance_id')
  if record[1] == 'lease_expired_reclaimable' then
    return
  end
  text_argument(lease_history, 'lease_history')
  redis.call('HSET', core,
    'lifecycle_phase', record[2] or '',
    'ownership_state', 'lease_expired_reclaimable',
    'eligibility_state', record[3] or 'not_applicable',
    'blocking_reason', 'waiting_for_worker',
    'blocking_detail', 'lease expired, awaiting reclaim',
    'terminal_outcome', record[4] or 'none',
    'attempt_state', 'attempt_interrupted',
    'public_state', 'active',
    'lease_expired_at', now_ms,
    'last_mutation_at', now_ms)
  redis.call('XADD', lease_history, 'MAXLEN', '~', history_length or 1000, '*',
    'event', 'expired',
    'lease_id', record[5] or '',
    'lease_epoch', record[6] or '',
    'attempt_index', record[7] or '',
    'attempt_id', record[8] or '',
    'worker_id', record[9] or '',
    'worker_instance_id', record[10] or '',
    'ts', now_ms)
  if is_set(record[7]) then
    close_expired_stream(core, record[7], now_ms)
  end
end

-- An active record without an expiry is damaged: the reference raises on the empty text and takes a missing
-- field for 0. Both mean here that nobody can hold the lease any more.
local function lease_expiry_ms(expires_at)
  return tonumber(expires_at or 0) or 0
end

-- Fields that require_lease reads, in its order; a caller may name more behind them.
local LEASE_FIELDS = { 'lifecycle_phase', 'ownership_state', 'lease_expires_at', 'current_lease_id',
  'current_lease_epoch', 'current_attempt_id', 'terminal_outcome' }

-- Refuses unless the caller's lease is the current one and has time left.
-- record: an execution read with LEASE_FIELDS first.
local function require_lease(core, lease_history, record, lease_id, lease_epoch, attempt_id, now_ms, history_length)
  if record[1] ~= 'active' then
    refuse('execution_not_active', record[7] or '', record[5] or '')
  end
  if record[2] == 'lease_revoked' then
    refuse('lease_revoked')
  end
  if lease_expiry_ms(record[3]) <= now_ms then
    mark_lease_expired(core, lease_history, now_ms, history_length)
    refuse('lease_expired')
  end
  if record[4] ~= lease_id or record[5] ~= lease_epoch or record[6] ~= attempt_id then
    refuse('stale_lease')
  end
end
