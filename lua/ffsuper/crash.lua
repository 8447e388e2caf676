-- Crash reports of attempts.

-- ffsuper_report_crash: store with an attempt how its child died, before its failure ends the lease.
-- KEYS  1 core           hash    the execution record
--       2 attempt        hash    the current one; gets the field crash_report
--       3 lease_history  stream
-- ARGV  1 execution_id   not read
--       2 lease_id
--       3 lease_epoch    compared as text
--       4 attempt_id
--       5 report         JSON text
-- Replies  ok()
-- Refuses  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease  invalid_input
register('ffsuper_report_crash', function(keys, args)
  local core, attempt, lease_history = keys[1], keys[2], keys[3]
  require_keys(keys, 3)
  local report = text_argument(args[5], 'report')
  require_holder(core, lease_history, args, server_time_ms())
  redis.call('HSET', attempt, 'crash_report', report)
  return ok()
end)
