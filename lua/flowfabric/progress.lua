-- Progress of running executions.

-- ff_update_progress: record how far a running execution has come.
-- KEYS  1 core  hash  the execution record
-- ARGV  1 execution_id      not read
--       2 lease_id
--       3 lease_epoch       compared as text
--       4 progress_pct      any text; empty or absent keeps the earlier one
--       5 progress_message  likewise
-- Replies  ok()
-- Refuses  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease
register('ff_update_progress', function(keys, args)
  local core = keys[1]
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_expires_at', 'current_lease_id',
    'current_lease_epoch', 'terminal_outcome')
  if record[1] ~= 'active' then
    refuse('execution_not_active', record[6] or '', record[5] or '')
  end
  if record[2] == 'lease_revoked' then
    refuse('lease_revoked')
  end
  local now_ms = server_time_ms()
  if lease_expiry_ms(record[3]) <= now_ms then
    refuse('lease_expired') -- not marked: the sweep and the holder's next renewal do that
  end
  if record[4] ~= args[2] or record[5] ~= args[3] then
    refuse('stale_lease')
  end

  local now = tostring(now_ms)
  local fields = { 'last_mutation_at', now, 'progress_updated_at', now }
  if is_set(args[4]) then
    fields[5], fields[6] = 'progress_pct', args[4]
  end
  if is_set(args[5]) then
    fields[#fields + 1], fields[#fields + 2] = 'progress_message', args[5]
  end
  redis.call('HSET', core, unpack(fields))
  return ok()
end)
