-- Claims: a worker uses its grant up and gets a lease, for a new attempt or for one that was interrupted.

-- Returns what to store of an attempt policy, or nil when that is nothing.
local function attempt_policy_argument(text)
  if not is_set(text) or text == '{}' then
    return nil
  end
  local members = flat_members(text)
  if not members then
    refuse('invalid_input', 'attempt_policy must be a JSON object, got: ' .. text)
  end
  return members
end

-- Returns the number of an optional time, or nil for none: empty, absent, or '0'.
local function optional_time_argument(text, name)
  return is_set(text) and text ~= '0' and score_argument(text, name) or nil
end

-- ff_claim_execution: use a claim grant up, and begin a new attempt under a new lease.
-- KEYS  1 core                hash    the execution record
--       2 claim_grant         hash    loses its use
--       3 eligible            zset    the lane's
--       4 lease_expiry        zset    execution id -> lease expiry
--       5 worker_leases       set     executions of the worker instance
--       6 attempt             hash    not touched, like 7 and 8: the record's number of attempts names the new one
--       7 attempt_usage       hash
--       8 attempt_policy      hash
--       9 attempts            zset    attempt index -> its beginning
--      10 lease_current       hash
--      11 lease_history       stream
--      12 active              zset    the lane's; lease expiry of the claim, not of renewals
--      13 attempt_timeout     zset    execution id -> timeout
--      14 execution_deadline  zset    execution id -> deadline
-- ARGV  1 execution_id
--       2 worker_id           as in the grant
--       3 worker_instance_id
--       4 lane_id             stored only
--       5 capability_hash     not read
--       6 lease_id            a new one
--       7 lease_ttl_ms        number
--       8 renew_before_ms     number: from now to the renewal deadline
--       9 attempt_id          a new one
--      10 attempt_policy      JSON object; empty or absent: none
--      11 attempt_timeout_ms  number, from now; empty, absent or 0: none
--      12 execution_deadline  number, ms; empty, absent or 0: the earlier one stays
-- Replies  ok(lease_id, lease_epoch, expires_at_ms, attempt_id, attempt_index, attempt_type), the last of them
--          initial, retry or replay
-- Refuses  invalid_input  execution_not_found  execution_not_leaseable  lease_conflict  active_attempt_exists
--          use_claim_resumed_execution  invalid_claim_grant  claim_grant_expired
register('ff_claim_execution', function(keys, args)
  local core, claim_grant, eligible, lease_expiry, worker_leases = keys[1], keys[2], keys[3], keys[4], keys[5]
  local attempts, lease_current, lease_history, active = keys[9], keys[10], keys[11], keys[12]
  local attempt_timeout, execution_deadline, execution_id = keys[13], keys[14], args[1]
  local ttl_ms = number_argument(args[7], 'lease_ttl_ms')
  local renew_before_ms = number_argument(args[8], 'renew_before_ms')
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'eligibility_state', 'terminal_outcome',
    'attempt_state', 'current_lease_epoch', 'total_attempt_count', 'started_at')
  require_claimable(record)
  local grant_expires_at, now_ms = require_grant(claim_grant, args[2]), server_time_ms()
  if is_grant_over(grant_expires_at, now_ms) then
    refuse('claim_grant_expired')
  end
  score_argument(args[7], 'lease_ttl_ms')
  local attempt_id = text_argument(args[9], 'attempt_id')
  local policy = attempt_policy_argument(args[10])
  local timeout_ms = optional_time_argument(args[11], 'attempt_timeout_ms')
  local deadline_ms = optional_time_argument(args[12], 'execution_deadline')
  require_keys(keys, deadline_ms and 14 or timeout_ms and 13 or 12)

  local lease = new_lease(new_term(args, ttl_ms, renew_before_ms, now_ms), execution_id, args[6], attempt_id, record[6])
  local attempt, attempt_index, attempt_type = begin_next_attempt(core, attempts, record, lease)
  if policy then
    write_members(attempt .. ':policy', policy)
  end
  redis.call('DEL', claim_grant, lease_current)
  write_new_lease(core, lease_current, record, lease, attempt_index)
  redis.call('ZREM', eligible, execution_id)
  index_lease(lease_expiry, worker_leases, active, lease)
  if timeout_ms then
    redis.call('ZADD', attempt_timeout, now_ms + timeout_ms, execution_id)
  end
  if deadline_ms then
    redis.call('ZADD', execution_deadline, deadline_ms, execution_id)
  end
  append_acquired(lease_history, lease, attempt_index)
  return lease_reply(lease, attempt_index, attempt_type)
end)

-- ff_claim_resumed_execution: use a claim grant up, and go on with the interrupted attempt under a new lease.
-- KEYS  1 core                hash    the execution record
--       2 claim_grant         hash    loses its use
--       3 eligible            zset    the lane's
--       4 lease_expiry        zset    execution id -> lease expiry
--       5 worker_leases       set     executions of the worker instance
--       6 attempt             hash    the current one
--       7 lease_current       hash
--       8 lease_history       stream
--       9 active              zset    the lane's; lease expiry of the claim, not of renewals
--      10 attempt_timeout     zset    execution id -> timeout
--      11 execution_deadline  zset    not touched
-- ARGV  1 execution_id
--       2 worker_id           as in the grant
--       3 worker_instance_id
--       4 lane_id             stored only
--       5 capability_hash     not read
--       6 lease_id            a new one
--       7 lease_ttl_ms        number
--       8 attempt_timeout_ms  number, from now: what is left of it; empty, absent or not > 0: none
-- Replies  ok(lease_id, lease_epoch, expires_at_ms, attempt_id, attempt_index, 'resumed')
-- Refuses  invalid_input  execution_not_found  execution_not_leaseable  not_a_resumed_execution
--          invalid_claim_grant  claim_grant_expired
register('ff_claim_resumed_execution', function(keys, args)
  local core, claim_grant, eligible, lease_expiry, worker_leases = keys[1], keys[2], keys[3], keys[4], keys[5]
  local attempt, lease_current, lease_history = keys[6], keys[7], keys[8]
  local active, attempt_timeout, execution_id = keys[9], keys[10], args[1]
  local ttl_ms = number_argument(args[7], 'lease_ttl_ms')
  local record = require_execution(core, 'lifecycle_phase', 'attempt_state', 'current_lease_epoch',
    'current_attempt_id', 'current_attempt_index')
  if record[1] ~= 'runnable' then
    refuse('execution_not_leaseable')
  elseif record[2] ~= 'attempt_interrupted' then
    refuse('not_a_resumed_execution')
  end
  local grant_expires_at, now_ms = require_grant(claim_grant, args[2]), server_time_ms()
  if is_grant_over(grant_expires_at, now_ms) then
    redis.call('DEL', claim_grant)
    refuse('claim_grant_expired')
  end
  score_argument(args[7], 'lease_ttl_ms')
  local timeout_ms = is_set(args[8]) and number_argument(args[8], 'attempt_timeout_ms') or 0
  require_keys(keys, timeout_ms > 0 and 10 or 9)

  local attempt_id, attempt_index = record[4] or '', record[5] or ''
  local term = new_term(args, ttl_ms, math.floor(ttl_ms * 2 / 3), now_ms)
  local lease = new_lease(term, execution_id, args[6], attempt_id, record[3])
  redis.call('HSET', attempt,
    'attempt_state', 'started',
    'resumed_at', term.now,
    'lease_id', lease.id,
    'lease_epoch', lease.epoch,
    'worker_id', term.worker_id,
    'worker_instance_id', term.worker_instance_id,
    'suspended_at', '',
    'suspension_id', '')
  redis.call('DEL', claim_grant, lease_current)
  write_lease(core, lease_current, lease,
    'lease_expired_at', '',
    'lease_revoke_reason', '')
  redis.call('ZREM', eligible, execution_id)
  index_lease(lease_expiry, worker_leases, active, lease)
  if timeout_ms > 0 then
    redis.call('ZADD', attempt_timeout, now_ms + timeout_ms, execution_id)
  end
  append_history(lease_history,
    'event', 'acquired',
    'lease_id', lease.id,
    'lease_epoch', lease.epoch,
    'attempt_index', attempt_index,
    'attempt_id', attempt_id,
    'worker_id', term.worker_id,
    'reason', 'claim_resumed',
    'ts', term.now)
  return lease_reply(lease, attempt_index, 'resumed')
end)
