-- Grants: short-lived leave for one worker to take an execution.

local GRANT_ARGUMENTS = { 'execution_id', 'worker_id', 'worker_instance_id', 'lane_id' }

local function write_grant(claim_grant, args, now_ms)
  for position, name in ipairs(GRANT_ARGUMENTS) do
    text_argument(args[position], name)
  end
  local expires_at_ms = now_ms + integer_argument(args[6], 'grant_ttl_ms')
  redis.call('HSET', claim_grant,
    'worker_id', args[2],
    'worker_instance_id', args[3],
    'lane_id', args[4],
    'capability_hash', args[5] or '',
    'route_snapshot_json', args[7] or '',
    'admission_summary', args[8] or '',
    'created_at', now_ms,
    'grant_expires_at', tostring(expires_at_ms))
  redis.call('PEXPIREAT', claim_grant, expires_at_ms)
  return ok(args[1])
end

-- ff_issue_claim_grant: let one worker claim an eligible execution.
-- KEYS  1 core         hash  the execution record
--       2 claim_grant  hash  the grant, with its expiry as the key's
--       3 eligible     zset  the lane's claimable executions
-- ARGV  1 execution_id
--       2 worker_id           the only one who may use the grant
--       3 worker_instance_id
--       4 lane_id
--       5 capability_hash
--       6 grant_ttl_ms        integer
--       7 route_snapshot_json
--       8 admission_summary
--       9 capabilities        the worker's, comma-separated
-- Replies  ok(execution_id)
-- Refuses  invalid_input  execution_not_found  execution_not_eligible  grant_already_exists
--          execution_not_in_eligible_set  invalid_capabilities  capability_mismatch
register('ff_issue_claim_grant', function(keys, args)
  local core, claim_grant, eligible = keys[1], keys[2], keys[3]
  number_argument(args[6], 'grant_ttl_ms')
  local record = require_execution(core, 'lifecycle_phase', 'eligibility_state', 'required_capabilities')
  if record[1] ~= 'runnable' or record[2] ~= 'eligible_now' then
    refuse('execution_not_eligible')
  end
  if redis.call('EXISTS', claim_grant) == 1 then
    refuse('grant_already_exists')
  end
  if not redis.call('ZSCORE', eligible, text_argument(args[1], 'execution_id')) then
    refuse('execution_not_in_eligible_set')
  end
  local now_ms = server_time_ms()
  require_capabilities(core, record[3], args[9], now_ms)
  return write_grant(claim_grant, args, now_ms)
end)

-- ff_issue_reclaim_grant: let one worker take over an execution whose lease is over.
-- KEYS  1 core          hash  the execution record
--       2 claim_grant   hash  the grant, with its expiry as the key's
--       3 lease_expiry  zset  not looked at
-- ARGV  1 execution_id
--       2 worker_id           the only one who may use the grant
--       3 worker_instance_id
--       4 lane_id
--       5 capability_hash
--       6 grant_ttl_ms        integer
--       7 route_snapshot_json
--       8 admission_summary
--       9 capabilities        the worker's, comma-separated
-- Replies  ok(execution_id)
-- Refuses  invalid_input  execution_not_found  execution_not_reclaimable  grant_already_exists
--          invalid_capabilities  capability_mismatch
register('ff_issue_reclaim_grant', function(keys, args)
  local core, claim_grant = keys[1], keys[2]
  number_argument(args[6], 'grant_ttl_ms')
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'required_capabilities')
  local reclaimable = record[2] == 'lease_expired_reclaimable' or record[2] == 'lease_revoked'
  if record[1] ~= 'active' or not reclaimable then
    refuse('execution_not_reclaimable')
  end
  if redis.call('EXISTS', claim_grant) == 1 then
    refuse('grant_already_exists')
  end
  local now_ms = server_time_ms()
  require_capabilities(core, record[3], args[9], now_ms)
  return write_grant(claim_grant, args, now_ms)
end)
