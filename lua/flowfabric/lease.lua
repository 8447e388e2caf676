-- Leases: renew, mark as expired, revoke.

-- Refuses numbers that make no time at which the server could let the lease record expire. The reference raises there,
-- with the record's times moved and the expiry index not.
local function require_key_expiry(at_ms, args)
  if not is_command_integer(at_ms) then
    integer_argument(args[6], 'lease_ttl_ms')
    integer_argument(args[7], 'lease_history_grace_ms')
  end
end

-- ff_renew_lease: move the expiry of a held lease forward.
-- KEYS  1 core           hash    the execution record
--       2 lease_current  hash    the lease, with its expiry as the key's
--       3 lease_history  stream  receives the expiry mark when the lease is found to be over
--       4 lease_expiry   zset    execution id -> lease expiry
-- ARGV  1 execution_id
--       2 attempt_index           compared as text
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
  local ttl_ms = number_argument(args[6], 'lease_ttl_ms')
  local grace_ms = number_argument(args[7], 'lease_history_grace_ms')
  local now_ms = server_time_ms()
  require_renewable(core, lease_history, attempt_index, attempt_id, lease_id, lease_epoch, now_ms)
  require_key_expiry(now_ms + ttl_ms + grace_ms, args)
  require_keys(keys, 4)

  local renewal = new_renewal(ttl_ms, grace_ms, now_ms)
  write_renewal(core, lease_current, lease_expiry, execution_id, renewal)
  return ok(renewal.expires_at)
end)

-- ff_mark_lease_expired_if_due: mark a lease whose time has run out, so that the execution can be taken over.
-- KEYS  1 core           hash    the execution record
--       2 lease_current  hash    not touched
--       3 lease_expiry   zset    execution id -> lease expiry; loses what has no lease, keeps what was marked
--       4 lease_history  stream
-- ARGV  1 execution_id
-- Replies  ok('marked_expired')
--          already_satisfied('execution_not_found')  already_satisfied('not_active')  already_satisfied('unowned')
--          already_satisfied('already_expired')  already_satisfied('already_revoked')
--          already_satisfied('not_yet_expired')
-- Refuses  invalid_input
register('ff_mark_lease_expired_if_due', function(keys, args)
  local core, lease_expiry, lease_history = keys[1], keys[3], keys[4]
  local function cleaned(reason)
    redis.call('ZREM', lease_expiry, text_argument(args[1], 'execution_id'))
    return already_satisfied(reason)
  end

  local record = redis.call('HMGET', core, 'lifecycle_phase', 'ownership_state', 'lease_expires_at')
  local ownership = record[2]
  if record[1] ~= 'active' then
    local is_found = record[1] or redis.call('EXISTS', core) == 1
    return cleaned(is_found and 'not_active' or 'execution_not_found')
  elseif ownership == 'lease_expired_reclaimable' then
    return already_satisfied('already_expired')
  elseif ownership == 'lease_revoked' then
    return already_satisfied('already_revoked')
  elseif ownership == 'unowned' then
    return cleaned('unowned')
  end
  local now_ms = server_time_ms()
  if lease_expiry_ms(record[3]) > now_ms then
    return already_satisfied('not_yet_expired')
  end
  mark_lease_expired(core, lease_history, now_ms)
  return ok('marked_expired')
end)

-- ff_revoke_lease: take a lease away from its holder; the execution waits to be reclaimed, cancelled or expired.
-- KEYS  1 core           hash    the execution record
--       2 lease_current  hash
--       3 lease_history  stream
--       4 lease_expiry   zset    execution id -> lease expiry
--       5 worker_leases  set     executions of the holder's worker instance
-- ARGV  1 execution_id
--       2 expected_lease_id  empty or absent: any
--       3 reason             absent for operator
-- Replies  ok('revoked', lease_id, lease_epoch)  already_satisfied('already_revoked')
--          already_satisfied('already_expired')
-- Refuses  execution_not_found  execution_not_active  no_active_lease  stale_lease  invalid_input
register('ff_revoke_lease', function(keys, args)
  local core, lease_current, lease_history, lease_expiry, worker_leases = keys[1], keys[2], keys[3], keys[4], keys[5]
  local execution_id, expected_lease_id, reason = args[1], args[2], args[3] or 'operator'
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'terminal_outcome', 'eligibility_state',
    'current_lease_id', 'current_lease_epoch', 'current_attempt_index', 'current_attempt_id', 'current_worker_id',
    'current_worker_instance_id')
  local ownership, lease_id, lease_epoch = record[2], record[5] or '', record[6] or ''
  if record[1] ~= 'active' then
    refuse('execution_not_active', record[3] or '', lease_epoch)
  elseif ownership == 'lease_revoked' then
    return already_satisfied('already_revoked')
  elseif ownership == 'lease_expired_reclaimable' then
    return already_satisfied('already_expired')
  elseif ownership ~= 'leased' then
    refuse('no_active_lease')
  elseif is_set(expected_lease_id) and expected_lease_id ~= lease_id then
    refuse('stale_lease', 'expected ' .. expected_lease_id .. ' but current is ' .. lease_id)
  end
  text_argument(execution_id, 'execution_id')
  require_keys(keys, 5)

  local now = tostring(server_time_ms())
  redis.call('HSET', core,
    'ownership_state', 'lease_revoked',
    'eligibility_state', record[4] or 'not_applicable',
    'blocking_reason', 'waiting_for_worker',
    'blocking_detail', 'lease revoked: ' .. reason,
    'terminal_outcome', 'none',
    'attempt_state', 'attempt_interrupted',
    'public_state', 'active',
    'lease_revoked_at', now,
    'lease_revoke_reason', reason,
    'last_mutation_at', now)
  redis.call('DEL', lease_current)
  redis.call('ZREM', lease_expiry, execution_id)
  redis.call('SREM', worker_leases, execution_id)
  announce_lease_end(execution_id)
  append_history(lease_history,
    'event', 'revoked',
    'lease_id', lease_id,
    'lease_epoch', lease_epoch,
    'attempt_index', record[7] or '',
    'attempt_id', record[8] or '',
    'worker_id', record[9] or '',
    'worker_instance_id', record[10] or '',
    'reason', reason,
    'ts', now)
  return ok('revoked', lease_id, lease_epoch)
end)
