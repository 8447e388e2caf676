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
  local ttl_ms = number_argument(args[6], 'lease_ttl_ms')
  local grace_ms = number_argument(args[7], 'lease_history_grace_ms')
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
  text_argument(execution_id, 'execution_id')
  integer_argument(args[6], 'lease_ttl_ms')
  integer_argument(args[7], 'lease_history_grace_ms')

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

-- ff_mark_lease_expired_if_due: mark a lease whose time has run out, so that it can be taken over.
-- KEYS  1 core           hash    the execution record
--       2 lease_current  hash    not used
--       3 lease_expiry   zset    execution id -> lease expiry
--       4 lease_history  stream  lease events
-- ARGV  1 execution_id
-- Replies  ok('marked_expired'), or ALREADY_SATISFIED with execution_not_found, not_active, already_expired,
--          already_revoked, unowned or not_yet_expired
-- Refuses  invalid_input
register('ff_mark_lease_expired_if_due', function(keys, args)
  local core, lease_expiry, execution_id = keys[1], keys[3], text_argument(args[1], 'execution_id')
  local record = redis.call('HMGET', core, 'lifecycle_phase', 'ownership_state', 'lease_expires_at')
  local misplaced
  if not record[1] and redis.call('EXISTS', core) == 0 then
    misplaced = 'execution_not_found'
  elseif record[1] ~= 'active' then
    misplaced = 'not_active'
  elseif record[2] == 'lease_expired_reclaimable' then
    return already_satisfied('already_expired')
  elseif record[2] == 'lease_revoked' then
    return already_satisfied('already_revoked')
  elseif record[2] == 'unowned' then
    misplaced = 'unowned'
  end
  if misplaced then
    redis.call('ZREM', lease_expiry, execution_id)
    return already_satisfied(misplaced)
  end
  local now_ms = server_time_ms()
  if lease_expiry_ms(record[3]) > now_ms then
    return already_satisfied('not_yet_expired')
  end
  mark_lease_expired(core, keys[4], now_ms)
  return ok('marked_expired')
end)

-- ff_revoke_lease: take a lease away from its holder.
-- KEYS  1 core           hash    the execution record
--       2 lease_current  hash    the lease
--       3 lease_history  stream  lease events
--       4 lease_expiry   zset    execution id -> lease expiry
--       5 worker_leases  set     executions leased to the holder
-- ARGV  1 execution_id
--       2 expected_lease_id  refused when it is another one's; empty for any
--       3 reason             operator when absent
-- Replies  ok('revoked', lease_id, lease_epoch), or ALREADY_SATISFIED with already_revoked or already_expired
-- Refuses  invalid_input  execution_not_found  execution_not_active  no_active_lease  stale_lease
register('ff_revoke_lease', function(keys, args)
  local core, execution_id, expected, reason = keys[1], args[1], args[2], args[3] or 'operator'
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'terminal_outcome',
    'current_lease_id', 'current_lease_epoch', 'current_attempt_index', 'current_attempt_id', 'current_worker_id',
    'current_worker_instance_id', 'eligibility_state')
  local lease_id, lease_epoch = record[4] or '', record[5] or ''
  if record[1] ~= 'active' then
    refuse('execution_not_active', record[3] or '', lease_epoch)
  elseif record[2] == 'lease_revoked' then
    return already_satisfied('already_revoked')
  elseif record[2] == 'lease_expired_reclaimable' then
    return already_satisfied('already_expired')
  elseif record[2] ~= 'leased' then
    refuse('no_active_lease')
  elseif is_set(expected) and expected ~= lease_id then
    refuse('stale_lease', 'expected ' .. expected .. ' but current is ' .. lease_id)
  end
  text_argument(execution_id, 'execution_id')

  local now_ms = server_time_ms()
  redis.call('HSET', core,
    'lifecycle_phase', 'active', 'ownership_state', 'lease_revoked',
    'eligibility_state', record[10] or 'not_applicable', 'blocking_reason', 'waiting_for_worker',
    'blocking_detail', 'lease revoked: ' .. reason, 'terminal_outcome', 'none',
    'attempt_state', 'attempt_interrupted', 'public_state', 'active',
    'lease_revoked_at', now_ms, 'lease_revoke_reason', reason, 'last_mutation_at', now_ms)
  redis.call('DEL', keys[2])
  redis.call('ZREM', keys[4], execution_id)
  redis.call('SREM', keys[5], execution_id)
  append_history(keys[3], 'event', 'revoked', 'lease_id', lease_id, 'lease_epoch', lease_epoch,
    'attempt_index', record[6] or '', 'attempt_id', record[7] or '', 'worker_id', record[8] or '',
    'worker_instance_id', record[9] or '', 'reason', reason, 'ts', now_ms)
  return ok('revoked', lease_id, lease_epoch)
end)
