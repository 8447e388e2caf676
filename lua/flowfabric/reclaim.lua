-- Reclaims: another worker takes over an execution whose lease has expired or was revoked.

local DEFAULT_MAX_RECLAIMS = 100

-- Ends an execution that has been reclaimed as often as it may be. Unlike a failure that the holder reports, this
-- leaves the times of the lease in the record, and the attempt and its stream as they are; nothing is published.
-- instance_id: the old holder's, whose set is found here: the caller passes the new one's
local function end_unreclaimable(keys, execution_id, instance_id, lane_id, now)
  local core, lease_current, lease_expiry, worker_leases, active = keys[1], keys[8], keys[10], keys[11], keys[12]
  local attempt_timeout, execution_deadline, tag = keys[13], keys[14], tag_of(keys[1])
  redis.call('HSET', core,
    'lifecycle_phase', 'terminal',
    'ownership_state', 'unowned',
    'eligibility_state', 'not_applicable',
    'blocking_reason', 'none',
    'blocking_detail', '',
    'terminal_outcome', 'failed',
    'attempt_state', 'attempt_terminal',
    'public_state', 'failed',
    'failure_reason', 'max_reclaims_exceeded',
    'completed_at', now,
    'current_lease_id', '',
    'current_worker_id', '',
    'current_worker_instance_id', '',
    'last_transition_at', now,
    'last_mutation_at', now)
  release_lease(lease_current, lease_expiry, worker_leases, active, attempt_timeout, execution_id)
  if is_set(instance_id) then
    redis.call('SREM', worker_leases_key(tag, instance_id), execution_id)
  end
  redis.call('ZREM', execution_deadline, execution_id)
  redis.call('ZADD', lane_index_key(tag, lane_id, 'terminal'), now, execution_id)
end

-- ff_reclaim_execution: end the attempt whose lease is over, and begin another under a new lease.
-- KEYS  1 core                hash    the execution record
--       2 claim_grant         hash    loses its use
--       3 old_attempt         hash    the current one
--       4 old_stream_meta     hash    the current attempt's; closed if it exists
--       5 attempt             hash    not touched, like 6: the record's number of attempts names the new one
--       6 attempt_usage       hash
--       7 attempts            zset    attempt index -> its beginning
--       8 lease_current       hash
--       9 lease_history       stream
--      10 lease_expiry        zset    execution id -> lease expiry
--      11 worker_leases       set     executions of the new worker instance; the old one's keeps the execution
--      12 active              zset    the lane's
--      13 attempt_timeout     zset    execution id -> timeout; loses the old attempt's, if passed
--      14 execution_deadline  zset    execution id -> deadline
-- ARGV  1 execution_id
--       2 worker_id           as in the grant
--       3 worker_instance_id
--       4 lane_id             stored only
--       5 lease_id            a new one
--       6 lease_ttl_ms        number
--       7 attempt_id          a new one
--       8 attempt_policy      not read
-- Replies  ok(lease_id, lease_epoch, expires_at_ms, attempt_id, attempt_index, 'reclaim')
-- Refuses  invalid_input  execution_not_found  execution_not_reclaimable
--          max_retries_exhausted (too many reclaims: the execution has failed)  invalid_claim_grant
register('ff_reclaim_execution', function(keys, args)
  local core, claim_grant, old_attempt, old_stream_meta, attempts = keys[1], keys[2], keys[3], keys[4], keys[7]
  local lease_current, lease_history, lease_expiry, worker_leases = keys[8], keys[9], keys[10], keys[11]
  local active, attempt_timeout, execution_id = keys[12], keys[13], args[1]
  local ttl_ms = number_argument(args[6], 'lease_ttl_ms')
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_reclaim_count',
    'total_attempt_count', 'current_lease_epoch', 'current_attempt_index', 'current_worker_instance_id', 'lane_id',
    'current_lane')
  local ownership, old_epoch, old_index = record[2], record[5] or '0', record[6] or ''
  if record[1] ~= 'active' or (ownership ~= 'lease_expired_reclaimable' and ownership ~= 'lease_revoked') then
    refuse('execution_not_reclaimable')
  end
  local now_ms, reclaims = server_time_ms(), stored_number(record[3])
  if reclaims >= policy_number(core, 'max_reclaim_count', DEFAULT_MAX_RECLAIMS) then
    require_keys(keys, 14)
    end_unreclaimable(keys, execution_id, record[7], record[8] or record[9] or 'default', tostring(now_ms))
    refuse('max_retries_exhausted')
  end
  require_grant(claim_grant, args[2])
  score_argument(args[6], 'lease_ttl_ms')
  local attempt_id = text_argument(args[7], 'attempt_id')
  require_keys(keys, 12)

  local term = new_term(args, ttl_ms, math.floor(ttl_ms * 2 / 3), now_ms)
  local lease = new_lease(term, execution_id, args[5], attempt_id, old_epoch)
  local index, reason = stored_number(record[4]), 'lease_' .. ownership
  local attempt_index = tostring(index)
  redis.call('HSET', old_attempt,
    'attempt_state', 'interrupted_reclaimed',
    'ended_at', term.now,
    'failure_reason', reason)
  close_stream(old_stream_meta, 'reclaimed', term.now)
  begin_attempt(attempt_key(tag_of(core), execution_id, attempt_index), attempts, attempt_index, lease, 'reclaim',
    'reclaim_reason', reason,
    'previous_attempt_index', old_index)
  redis.call('DEL', claim_grant, lease_current)
  write_lease(core, lease_current, lease,
    'current_attempt_index', attempt_index,
    'current_attempt_id', attempt_id,
    'total_attempt_count', tostring(index + 1),
    'lease_reclaim_count', tostring(reclaims + 1),
    'lease_expired_at', '',
    'lease_revoke_reason', '')
  index_lease(lease_expiry, worker_leases, active, lease)
  if attempt_timeout then -- the reference answers without it
    redis.call('ZREM', attempt_timeout, execution_id)
  end
  append_history(lease_history,
    'event', 'reclaimed',
    'old_lease_epoch', old_epoch,
    'new_lease_id', lease.id,
    'new_lease_epoch', lease.epoch,
    'new_attempt_id', attempt_id,
    'new_attempt_index', attempt_index,
    'worker_id', term.worker_id,
    'ts', term.now)
  return lease_reply(lease, attempt_index, 'reclaim')
end)
