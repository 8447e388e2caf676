-- Taking leases: of a new attempt, of one that goes on, of one whose holder is gone.

local DEFAULT_MAX_RECLAIMS = 100

-- Refuses unless the grant exists and was made out to this worker; returns when it ends, as stored.
local function require_grant(claim_grant, worker_id)
  local grant = redis.call('HMGET', claim_grant, 'worker_id', 'grant_expires_at')
  if not grant[1] or grant[1] ~= worker_id then
    refuse('invalid_claim_grant')
  end
  return grant[2]
end

-- The members of an attempt policy as field, value, ...; nested ones as JSON.
local function flattened_policy(policy_json)
  local flat = {}
  if not is_set(policy_json) or policy_json == '{}' then
    return flat
  end
  local decoded, policy = pcall(cjson.decode, policy_json)
  if not decoded or type(policy) ~= 'table' then
    refuse('invalid_input', 'attempt_policy must be a JSON object, got: ' .. policy_json)
  end
  for name, value in pairs(policy) do
    flat[#flat + 1] = tostring(name)
    flat[#flat + 1] = type(value) == 'table' and cjson.encode(value) or tostring(value)
  end
  return flat
end

-- An optional time: nothing for absent, empty and '0'.
local function optional_time(value, name)
  if not is_set(value) or value == '0' then
    return nil
  end
  return score_argument(value, name)
end

-- Writes who holds the lease, in place of whoever held one before.
local function write_lease(lease_current, execution_id, lease)
  redis.call('DEL', lease_current)
  redis.call('HSET', lease_current,
    'lease_id', lease.id, 'lease_epoch', lease.epoch, 'execution_id', execution_id,
    'attempt_id', lease.attempt_id, 'worker_id', lease.worker_id,
    'worker_instance_id', lease.worker_instance_id, 'acquired_at', lease.now_ms,
    'expires_at', lease.expires_at, 'last_renewed_at', lease.now_ms,
    'renewal_deadline', lease.renewal_deadline)
end

-- Turns the record into that of a running, leased execution; more fields may follow.
local function write_held_core(core, lane_id, lease, ...)
  redis.call('HSET', core,
    'lifecycle_phase', 'active', 'ownership_state', 'leased', 'eligibility_state', 'not_applicable',
    'blocking_reason', 'none', 'blocking_detail', '', 'terminal_outcome', 'none',
    'attempt_state', 'running_attempt', 'public_state', 'active',
    'current_lease_id', lease.id, 'current_lease_epoch', lease.epoch,
    'current_worker_id', lease.worker_id, 'current_worker_instance_id', lease.worker_instance_id,
    'current_lane', lane_id, 'lease_acquired_at', lease.now_ms, 'lease_expires_at', lease.expires_at,
    'lease_last_renewed_at', lease.now_ms, 'lease_renewal_deadline', lease.renewal_deadline,
    'lease_expired_at', '', 'lease_revoked_at', '', 'lease_revoke_reason', '',
    'last_transition_at', lease.now_ms, 'last_mutation_at', lease.now_ms, ...)
end

local function write_lease_indexes(lease_expiry, worker_leases, active, execution_id, expires_at_ms)
  redis.call('ZADD', lease_expiry, expires_at_ms, execution_id)
  redis.call('SADD', worker_leases, execution_id)
  redis.call('ZADD', active, expires_at_ms, execution_id)
end

-- Writes the record of an attempt that begins now; more fields may follow.
local function write_new_attempt(tag, execution_id, index, attempts, lease, attempt_type, ...)
  local attempt = attempt_key(tag, execution_id, index)
  redis.call('HSET', attempt,
    'attempt_id', lease.attempt_id, 'execution_id', execution_id, 'attempt_index', index,
    'attempt_type', attempt_type, 'attempt_state', 'started',
    'created_at', lease.now_ms, 'started_at', lease.now_ms,
    'lease_id', lease.id, 'lease_epoch', lease.epoch,
    'worker_id', lease.worker_id, 'worker_instance_id', lease.worker_instance_id, ...)
  redis.call('ZADD', attempts, lease.now_ms, index)
  redis.call('HSET', attempt .. ':usage', 'last_usage_report_seq', '0')
  return attempt
end

local function lease_reply(lease, attempt_index, attempt_type)
  return ok(lease.id, lease.epoch, lease.expires_at, lease.attempt_id, attempt_index, attempt_type)
end

-- ff_claim_execution: consume a claim grant, begin a new attempt under a new lease.
-- KEYS  1 core                hash    the execution record
--       2 claim_grant         hash    consumed
--       3 eligible            zset    the lane's claimable executions
--       4 lease_expiry        zset    execution id -> lease expiry
--       5 worker_leases       set     executions leased to the instance
--       6 attempt             hash    not used: built from the stored count
--       7 attempt_usage       hash    not used
--       8 attempt_policy      hash    not used
--       9 attempts            zset    attempt index -> creation time
--      10 lease_current       hash    the lease
--      11 lease_history       stream  lease events
--      12 active              zset    the lane's leased executions
--      13 attempt_timeout     zset    execution id -> end of the attempt's time
--      14 execution_deadline  zset    execution id -> deadline
-- ARGV  1 execution_id
--       2 worker_id           as in the grant
--       3 worker_instance_id
--       4 lane_id
--       5 capability_hash     not used
--       6 lease_id
--       7 lease_ttl_ms        number
--       8 renew_before_ms     number
--       9 attempt_id
--      10 attempt_policy      JSON object, or empty
--      11 attempt_timeout_ms  number; empty or 0 for none
--      12 execution_deadline  ms; empty or 0 for none
-- Replies  ok(lease_id, epoch, expires_at_ms, attempt_id, attempt_index, attempt_type)
-- Refuses  invalid_input  execution_not_found  execution_not_leaseable  lease_conflict  active_attempt_exists
--          use_claim_resumed_execution  invalid_claim_grant  claim_grant_expired
register('ff_claim_execution', function(keys, args)
  local core, claim_grant, execution_id = keys[1], keys[2], args[1]
  local ttl_ms = number_argument(args[7], 'lease_ttl_ms')
  local renew_before_ms = number_argument(args[8], 'renew_before_ms')
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'eligibility_state',
    'terminal_outcome', 'attempt_state', 'current_lease_epoch', 'total_attempt_count', 'started_at',
    'pending_retry_reason', 'pending_previous_attempt_index', 'pending_replay_reason',
    'pending_replay_requested_by')
  local attempt_state = record[5]
  if record[1] ~= 'runnable' then
    refuse('execution_not_leaseable')
  elseif record[2] ~= 'unowned' then
    refuse('lease_conflict')
  elseif record[3] ~= 'eligible_now' or record[4] ~= 'none' then
    refuse('execution_not_leaseable')
  elseif attempt_state == 'running_attempt' then
    refuse('active_attempt_exists')
  elseif attempt_state == 'attempt_interrupted' then
    refuse('use_claim_resumed_execution')
  end
  local grant_expires_at = require_grant(claim_grant, args[2])
  local now_ms = server_time_ms()
  if is_set(grant_expires_at) and (tonumber(grant_expires_at) or 0) < now_ms then
    refuse('claim_grant_expired')
  end
  for position, name in pairs({ [1] = 'execution_id', [3] = 'worker_instance_id', [4] = 'lane_id',
    [6] = 'lease_id', [9] = 'attempt_id' }) do
    text_argument(args[position], name)
  end
  score_argument(args[7], 'lease_ttl_ms')
  local policy = flattened_policy(args[10])
  local attempt_timeout_ms = optional_time(args[11], 'attempt_timeout_ms')
  local deadline_ms = optional_time(args[12], 'execution_deadline')

  local expires_at_ms = now_ms + ttl_ms
  local total = tonumber(record[7]) or 0
  local index = tostring(total)
  local lease = {
    id = args[6], epoch = tostring((tonumber(record[6]) or 0) + 1), attempt_id = args[9], worker_id = args[2],
    worker_instance_id = args[3], now_ms = now_ms, expires_at = tostring(expires_at_ms),
    renewal_deadline = tostring(now_ms + renew_before_ms),
  }
  redis.call('DEL', claim_grant)
  local tag, attempts = tag_of(core), keys[9]
  local attempt_type, attempt = 'initial', nil
  if attempt_state == 'pending_retry_attempt' then
    attempt_type = 'retry'
    attempt = write_new_attempt(tag, execution_id, index, attempts, lease, attempt_type,
      'retry_reason', record[9] or '', 'previous_attempt_index', record[10] or '')
  elseif attempt_state == 'pending_replay_attempt' then
    attempt_type = 'replay'
    attempt = write_new_attempt(tag, execution_id, index, attempts, lease, attempt_type,
      'replay_reason', record[11] or '', 'replay_requested_by', record[12] or '',
      'replayed_from_attempt_index', record[10] or '')
  else
    attempt = write_new_attempt(tag, execution_id, index, attempts, lease, attempt_type)
  end
  if #policy > 0 then
    redis.call('HSET', attempt .. ':policy', unpack(policy))
  end
  write_lease(keys[10], execution_id, lease)
  write_held_core(core, args[4], lease,
    'current_attempt_index', index, 'total_attempt_count', tostring(total + 1), 'current_attempt_id', lease.attempt_id,
    'started_at', is_set(record[8]) and record[8] or now_ms,
    'pending_retry_reason', '', 'pending_replay_reason', '', 'pending_replay_requested_by', '',
    'pending_previous_attempt_index', '')
  redis.call('ZREM', keys[3], execution_id)
  write_lease_indexes(keys[4], keys[5], keys[12], execution_id, expires_at_ms)
  if attempt_timeout_ms then
    redis.call('ZADD', keys[13], now_ms + attempt_timeout_ms, execution_id)
  end
  if deadline_ms then
    redis.call('ZADD', keys[14], deadline_ms, execution_id)
  end
  append_history(keys[11], 'event', 'acquired', 'lease_id', lease.id, 'lease_epoch', lease.epoch,
    'attempt_id', lease.attempt_id, 'attempt_index', index, 'worker_id', lease.worker_id, 'ts', now_ms)
  return lease_reply(lease, index, attempt_type)
end)

-- ff_claim_resumed_execution: consume a claim grant, go on with the interrupted attempt under a new lease.
-- KEYS  1 core                hash    the execution record
--       2 claim_grant         hash    consumed
--       3 eligible            zset    the lane's claimable executions
--       4 lease_expiry        zset    execution id -> lease expiry
--       5 worker_leases       set     executions leased to the instance
--       6 attempt             hash    the current attempt
--       7 lease_current       hash    the lease
--       8 lease_history       stream  lease events
--       9 active              zset    the lane's leased executions
--      10 attempt_timeout     zset    execution id -> end of the attempt's time
--      11 execution_deadline  zset    not used
-- ARGV  1 execution_id
--       2 worker_id           as in the grant
--       3 worker_instance_id
--       4 lane_id
--       5 capability_hash     not used
--       6 lease_id
--       7 lease_ttl_ms        number
--       8 attempt_timeout_ms  what is left of the attempt's time; empty or not positive for none
-- Replies  ok(lease_id, epoch, expires_at_ms, attempt_id, attempt_index, 'resumed')
-- Refuses  invalid_input  execution_not_found  execution_not_leaseable  not_a_resumed_execution
--          invalid_claim_grant  claim_grant_expired
register('ff_claim_resumed_execution', function(keys, args)
  local core, claim_grant, execution_id = keys[1], keys[2], args[1]
  local ttl_ms = number_argument(args[7], 'lease_ttl_ms')
  local record = require_execution(core, 'lifecycle_phase', 'attempt_state', 'current_lease_epoch',
    'current_attempt_id', 'current_attempt_index')
  if record[1] ~= 'runnable' then
    refuse('execution_not_leaseable')
  elseif record[2] ~= 'attempt_interrupted' then
    refuse('not_a_resumed_execution')
  end
  local grant_expires_at = require_grant(claim_grant, args[2])
  local now_ms = server_time_ms()
  if is_set(grant_expires_at) and (tonumber(grant_expires_at) or 0) < now_ms then
    redis.call('DEL', claim_grant)
    refuse('claim_grant_expired')
  end
  for position, name in pairs({ [1] = 'execution_id', [3] = 'worker_instance_id', [4] = 'lane_id',
    [6] = 'lease_id' }) do
    text_argument(args[position], name)
  end
  score_argument(args[7], 'lease_ttl_ms')
  local attempt_timeout_ms = is_set(args[8]) and score_argument(args[8], 'attempt_timeout_ms') or 0

  local expires_at_ms = now_ms + ttl_ms
  local index = record[5] or ''
  local lease = {
    id = args[6], epoch = tostring((tonumber(record[3]) or 0) + 1), attempt_id = record[4] or '',
    worker_id = args[2], worker_instance_id = args[3], now_ms = now_ms, expires_at = tostring(expires_at_ms),
    renewal_deadline = tostring(now_ms + math.floor(ttl_ms * 2 / 3)),
  }
  redis.call('DEL', claim_grant)
  redis.call('HSET', keys[6],
    'attempt_state', 'started', 'resumed_at', now_ms, 'lease_id', lease.id, 'lease_epoch', lease.epoch,
    'worker_id', lease.worker_id, 'worker_instance_id', lease.worker_instance_id,
    'suspended_at', '', 'suspension_id', '')
  write_lease(keys[7], execution_id, lease)
  write_held_core(core, args[4], lease)
  redis.call('ZREM', keys[3], execution_id)
  write_lease_indexes(keys[4], keys[5], keys[9], execution_id, expires_at_ms)
  if attempt_timeout_ms > 0 then
    redis.call('ZADD', keys[10], now_ms + attempt_timeout_ms, execution_id)
  end
  append_history(keys[8], 'event', 'acquired', 'lease_id', lease.id, 'lease_epoch', lease.epoch,
    'attempt_index', index, 'attempt_id', lease.attempt_id, 'worker_id', lease.worker_id,
    'reason', 'claim_resumed', 'ts', now_ms)
  return lease_reply(lease, index, 'resumed')
end)

-- How often the policy lets an execution be reclaimed; what is no number there counts as not given.
local function max_reclaims(core)
  local policy_json = redis.call('GET', (string.gsub(core, ':core$', ':policy')))
  if not policy_json or not string.find(policy_json, 'max_reclaim_count', 1, true) then
    return DEFAULT_MAX_RECLAIMS
  end
  local decoded, policy = pcall(cjson.decode, policy_json)
  return decoded and type(policy) == 'table' and tonumber(policy.max_reclaim_count) or DEFAULT_MAX_RECLAIMS
end

-- Ends an execution that was reclaimed too often.
local function fail_for_reclaims(keys, execution_id, holder, lane_id, now_ms)
  local core, tag = keys[1], tag_of(keys[1])
  redis.call('HSET', core,
    'lifecycle_phase', 'terminal', 'ownership_state', 'unowned', 'eligibility_state', 'not_applicable',
    'blocking_reason', 'none', 'blocking_detail', '', 'terminal_outcome', 'failed',
    'attempt_state', 'attempt_terminal', 'public_state', 'failed', 'failure_reason', 'max_reclaims_exceeded',
    'completed_at', now_ms, 'current_lease_id', '', 'current_worker_id', '', 'current_worker_instance_id', '',
    'last_transition_at', now_ms, 'last_mutation_at', now_ms)
  redis.call('DEL', keys[8])
  redis.call('ZREM', keys[10], execution_id)
  redis.call('SREM', keys[11], execution_id)
  if is_set(holder) then
    redis.call('SREM', worker_leases_key(tag, holder), execution_id)
  end
  redis.call('ZREM', keys[12], execution_id)
  redis.call('ZREM', keys[13], execution_id)
  redis.call('ZREM', keys[14], execution_id)
  redis.call('ZADD', lane_index_key(tag, lane_id, 'terminal'), now_ms, execution_id)
end

-- ff_reclaim_execution: end the attempt whose lease is over, begin another under a new lease.
-- KEYS  1 core                hash    the execution record
--       2 claim_grant         hash    consumed
--       3 old_attempt         hash    ended
--       4 old_stream_meta     hash    closed, if it exists
--       5 attempt             hash    not used: built from the stored count
--       6 attempt_usage       hash    not used
--       7 attempts            zset    attempt index -> creation time
--       8 lease_current       hash    the lease
--       9 lease_history       stream  lease events
--      10 lease_expiry        zset    execution id -> lease expiry
--      11 worker_leases       set     executions leased to the new instance
--      12 active              zset    the lane's leased executions
--      13 attempt_timeout     zset    cleared at the limit
--      14 execution_deadline  zset    cleared at the limit
-- ARGV  1 execution_id
--       2 worker_id           as in the grant
--       3 worker_instance_id
--       4 lane_id
--       5 lease_id
--       6 lease_ttl_ms        number
--       7 attempt_id
--       8 attempt_policy      not used
-- Replies  ok(lease_id, epoch, expires_at_ms, attempt_id, attempt_index, 'reclaim')
-- Refuses  invalid_input  execution_not_found  execution_not_reclaimable  max_retries_exhausted (and has ended
--          the execution)  invalid_claim_grant
register('ff_reclaim_execution', function(keys, args)
  local core, claim_grant, execution_id = keys[1], keys[2], args[1]
  local ttl_ms = number_argument(args[6], 'lease_ttl_ms')
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_reclaim_count',
    'current_lease_epoch', 'total_attempt_count', 'current_attempt_index', 'current_worker_instance_id',
    'lane_id', 'current_lane')
  local ownership = record[2]
  if record[1] ~= 'active' or (ownership ~= 'lease_expired_reclaimable' and ownership ~= 'lease_revoked') then
    refuse('execution_not_reclaimable')
  end
  text_argument(execution_id, 'execution_id')
  local reclaims, now_ms = tonumber(record[3]) or 0, server_time_ms()
  if reclaims >= max_reclaims(core) then
    fail_for_reclaims(keys, execution_id, record[7], record[8] or record[9] or 'default', now_ms)
    refuse('max_retries_exhausted')
  end
  require_grant(claim_grant, args[2])
  for position, name in pairs({ [3] = 'worker_instance_id', [4] = 'lane_id', [5] = 'lease_id',
    [7] = 'attempt_id' }) do
    text_argument(args[position], name)
  end
  score_argument(args[6], 'lease_ttl_ms')

  local expires_at_ms = now_ms + ttl_ms
  local old_epoch, total = record[4] or '0', tonumber(record[5]) or 0
  local index, reason = tostring(total), 'lease_' .. ownership
  local lease = {
    id = args[5], epoch = tostring((tonumber(old_epoch) or 0) + 1), attempt_id = args[7], worker_id = args[2],
    worker_instance_id = args[3], now_ms = now_ms, expires_at = tostring(expires_at_ms),
    renewal_deadline = tostring(now_ms + math.floor(ttl_ms * 2 / 3)),
  }
  redis.call('DEL', claim_grant)
  redis.call('HSET', keys[3], 'attempt_state', 'interrupted_reclaimed', 'ended_at', now_ms, 'failure_reason', reason)
  if redis.call('EXISTS', keys[4]) == 1 then
    redis.call('HSET', keys[4], 'closed_at', now_ms, 'closed_reason', 'reclaimed')
  end
  write_new_attempt(tag_of(core), execution_id, index, keys[7], lease, 'reclaim',
    'reclaim_reason', reason, 'previous_attempt_index', record[6] or '')
  write_lease(keys[8], execution_id, lease)
  write_held_core(core, args[4], lease,
    'current_attempt_index', index, 'total_attempt_count', tostring(total + 1), 'current_attempt_id', lease.attempt_id,
    'lease_reclaim_count', tostring(reclaims + 1))
  write_lease_indexes(keys[10], keys[11], keys[12], execution_id, expires_at_ms)
  append_history(keys[9], 'event', 'reclaimed', 'old_lease_epoch', old_epoch, 'new_lease_id', lease.id,
    'new_lease_epoch', lease.epoch, 'new_attempt_id', lease.attempt_id, 'new_attempt_index', index,
    'worker_id', lease.worker_id, 'ts', now_ms)
  return lease_reply(lease, index, 'reclaim')
end)
