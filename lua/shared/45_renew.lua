-- Renewing a lease: what is checked and what is written, whether one is renewed or many.

-- Refuses unless the caller's lease is the current one and has time left.
local function require_renewable(core, lease_history, attempt_index, attempt_id, lease_id, lease_epoch, now_ms)
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_revoked_at',
    'lease_expires_at', 'current_attempt_index', 'current_attempt_id', 'current_lease_id', 'current_lease_epoch',
    'terminal_outcome')
  if record[1] ~= 'active' then
    refuse('execution_not_active', record[9] or '', record[8] or '')
  end
  if record[2] == 'lease_revoked' or is_set(record[3]) then
    refuse('lease_revoked')
  end
  if lease_expiry_ms(record[4]) <= now_ms then
    mark_lease_expired(core, lease_history, now_ms)
    refuse('lease_expired')
  end
  if record[5] ~= attempt_index or record[6] ~= attempt_id or record[7] ~= lease_id or record[8] ~= lease_epoch then
    refuse('stale_lease')
  end
end

-- What all leases that are renewed at one time, for as long, have in common, in the words of the records.
-- grace_ms: how long the lease's key outlives the expiry
local function new_renewal(ttl_ms, grace_ms, now_ms)
  local expires_at_ms = now_ms + ttl_ms
  local expires_at = tostring(expires_at_ms)
  return {
    now = tostring(now_ms),
    deadline = tostring(now_ms + math.floor(ttl_ms * 2 / 3)),
    expires_at = expires_at,
    expiry_score = tonumber(expires_at) == expires_at_ms and expires_at or expires_at_ms, -- as in new_term
    key_expires_at_ms = expires_at_ms + grace_ms,
  }
end

local function write_renewal(core, lease_current, lease_expiry, execution_id, renewal)
  redis.call('HSET', core,
    'lease_last_renewed_at', renewal.now,
    'lease_renewal_deadline', renewal.deadline,
    'lease_expires_at', renewal.expires_at,
    'last_mutation_at', renewal.now)
  redis.call('HSET', lease_current,
    'last_renewed_at', renewal.now,
    'renewal_deadline', renewal.deadline,
    'expires_at', renewal.expires_at)
  redis.call('PEXPIREAT', lease_current, renewal.key_expires_at_ms)
  redis.call('ZADD', lease_expiry, renewal.expiry_score, execution_id)
end
