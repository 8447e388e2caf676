-- Grants: leave for one worker to claim, or to reclaim, an execution within a short time.

-- Writes the grant that both functions below are asked for; their arguments are the same.
local function write_grant(claim_grant, args, ttl_ms, now_ms)
  local expires_at_ms = now_ms + ttl_ms
  if not is_command_integer(expires_at_ms) then
    -- The reference raises here with the grant written and without expiry: nobody could be granted it ever after.
    integer_argument(args[6], 'grant_ttl_ms')
  end
  redis.call('HSET', claim_grant,
    'worker_id', args[2],
    'worker_instance_id', args[3],
    'lane_id', args[4],
    'capability_hash', args[5],
    'route_snapshot_json', args[7] or '',
    'admission_summary', args[8] or '',
    'created_at', tostring(now_ms),
    'grant_expires_at', tostring(expires_at_ms))
  redis.call('PEXPIREAT', claim_grant, expires_at_ms)
  return ok(args[1])
end

-- ff_issue_claim_grant: let one worker claim an eligible execution. It stays eligible until it is claimed.
-- KEYS  1 core         hash  the execution record
--       2 claim_grant  hash  the grant, with its end as the key's expiry
--       3 eligible     zset  the lane's; read only
-- ARGV  1 execution_id
--       2 worker_id            whose the grant is
--       3 worker_instance_id   stored only, as are 4, 5, 7 and 8
--       4 lane_id
--       5 capability_hash
--       6 grant_ttl_ms         integer; not > 0 for a grant that is over at once
--       7 route_snapshot_json  absent for empty
--       8 admission_summary    absent for empty
--       9 capabilities         the worker's, with commas between them; absent for none
-- Replies  ok(execution_id)
-- Refuses  invalid_input  execution_not_found  execution_not_eligible  grant_already_exists
--          execution_not_in_eligible_set  invalid_capabilities  capability_mismatch (noted in the record)
register('ff_issue_claim_grant', function(keys, args)
  local core, claim_grant, eligible = keys[1], keys[2], keys[3]
  local ttl_ms = number_argument(args[6], 'grant_ttl_ms')
  local record = require_execution(core, 'lifecycle_phase', 'eligibility_state', 'required_capabilities')
  if record[1] ~= 'runnable' or record[2] ~= 'eligible_now' then
    refuse('execution_not_eligible')
  elseif redis.call('EXISTS', claim_grant) == 1 then
    refuse('grant_already_exists')
  elseif not redis.call('ZSCORE', eligible, args[1]) then
    refuse('execution_not_in_eligible_set')
  end
  local now_ms = server_time_ms()
  require_capabilities(core, record[3], args[9], now_ms)
  return write_grant(claim_grant, args, ttl_ms, now_ms)
end)

-- ff_issue_reclaim_grant: let one worker reclaim an execution whose lease has expired or was revoked.
-- KEYS  1 core          hash  the execution record
--       2 claim_grant   hash  the grant, with its end as the key's expiry
--       3 lease_expiry  zset  not touched
-- ARGV  1 execution_id
--       2 worker_id            whose the grant is
--       3 worker_instance_id   stored only, as are 4, 5, 7 and 8
--       4 lane_id
--       5 capability_hash
--       6 grant_ttl_ms         integer; not > 0 for a grant that is over at once
--       7 route_snapshot_json  absent for empty
--       8 admission_summary    absent for empty
--       9 capabilities         the worker's, with commas between them; absent for none
-- Replies  ok(execution_id)
-- Refuses  invalid_input  execution_not_found  execution_not_reclaimable  grant_already_exists
--          invalid_capabilities  capability_mismatch (noted in the record)
register('ff_issue_reclaim_grant', function(keys, args)
  local core, claim_grant = keys[1], keys[2]
  local ttl_ms = number_argument(args[6], 'grant_ttl_ms')
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'required_capabilities')
  local is_over = record[2] == 'lease_expired_reclaimable' or record[2] == 'lease_revoked'
  if record[1] ~= 'active' or not is_over then
    refuse('execution_not_reclaimable')
  elseif redis.call('EXISTS', claim_grant) == 1 then
    refuse('grant_already_exists')
  end
  local now_ms = server_time_ms()
  require_capabilities(core, record[3], args[9], now_ms)
  return write_grant(claim_grant, args, ttl_ms, now_ms)
end)
