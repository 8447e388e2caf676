-- Leases: renew, mark as expired, revoke.

-- ff_renew_lease: move the expiry of a held lease forward.
-- KEYS  1 core           hash    the execution record
--       2 lease_current  hash    the lease, with its expiry as the key's
--       3 lease_history  stream  receives the expiry mark when the lease is found to be over
--       4 lease_expiry   zset    execution id -> lease expiry
-- ARGV  1 execution_id
--       2 attempt_index
--       3 attempt_id
--       4 lease_id
--       5 lease_epoch             compared as text
--       6 lease_ttl_ms            integer
--       7 lease_history_grace_ms  integer; how long lease_current outlives the expiry
-- Replies  ok(expires_at_ms)
-- Refuses  invalid_input  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease
register('ff_renew_lease', function(keys, args)
  local core, lease_current, lease_history, lease_expiry = keys[1], keys[2], keys[3], keys[4]
  local execution_id, attempt_index, attempt_id, lease_id, lease_epoch = args[1], args[2], args[3], args[4], args[5]
  local ttl_ms = integer_argument(args[6], 'lease_ttl_ms')
  local grace_ms = integer_argument(args[7], 'lease_history_grace_ms')

  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_revoked_at',
    'lease_expires_at', 'current_attempt_index', 'current_attempt_id', 'current_lease_id', 'current_lease_epoch',
    'terminal_outcome')
  if record[1] ~= 'active' then
    refuse('execution_not_active', record[9] or '', record[8] or '')
  end
  if record[2] == 'lease_revoked' or is_set(record[3]) then
    refuse('lease_revoked')
  end
  local now_ms = server_time_ms()
  if lease_expiry_ms(record[4]) <= now_ms then
    mark_lease_expired(core, lease_history, now_ms)
    refuse('lease_expired')
  end
  if record[5] ~= attempt_index or record[6] ~= attempt_id or record[7] ~= lease_id or record[8] ~= lease_epoch then
    refuse('stale_lease')
  end

  local expires_at_ms = now_ms + ttl_ms
  local renewal_deadline_ms = now_ms + math.floor(ttl_ms * 2 / 3)
  redis.call('HSET', core,
    'lease_last_renewed_at', now_ms,
    'lease_renewal_deadline', renewal_deadline_ms,
    'lease_expires_at', expires_at_ms,
    'last_mutation_at', now_ms)
  redis.call('HSET', lease_current,
    'last_renewed_at', now_ms,
    'renewal_deadline', renewal_deadline_ms,
    'expires_at', expires_at_ms)
  redis.call('PEXPIREAT', lease_current, expires_at_ms + grace_ms)
  redis.call('ZADD', lease_expiry, expires_at_ms, execution_id)
  return ok(tostring(expires_at_ms))
end)
