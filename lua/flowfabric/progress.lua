-- Progress of running executions.

-- ff_update_progress: record how far a running execution is.
-- KEYS  1 core  hash  the execution record
-- ARGV  1 execution_id      not used
--       2 lease_id
--       3 lease_epoch       compared as text
--       4 progress_pct      any text; empty keeps the earlier one
--       5 progress_message  empty keeps the earlier one
-- Replies  ok()
-- Refuses  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease
register('ff_update_progress', function(keys, args)
  local core = keys[1]
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_expires_at',
    'current_lease_id', 'current_lease_epoch', 'terminal_outcome')
  if record[1] ~= 'active' then
    refuse('execution_not_active', record[6] or '', record[5] or '')
  elseif record[2] == 'lease_revoked' then
    refuse('lease_revoked')
  end
  local now_ms = server_time_ms()
  if lease_expiry_ms(record[3]) <= now_ms then
    refuse('lease_expired')
  elseif record[4] ~= args[2] or record[5] ~= args[3] then
    refuse('stale_lease')
  end
  redis.call('HSET', core, 'last_mutation_at', now_ms, 'progress_updated_at', now_ms)
  if is_set(args[4]) then
    redis.call('HSET', core, 'progress_pct', args[4])
  end
  if is_set(args[5]) then
    redis.call('HSET', core, 'progress_message', args[5])
  end
  return ok()
end)
