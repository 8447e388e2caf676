-- Suspensions: give up the lease until a signal, an operator or a timeout.

-- The arguments of ff_suspend_execution that must not be absent.
local SUSPEND_ARGUMENTS = { 'execution_id', 'attempt_index', 'attempt_id', 'lease_id', 'lease_epoch', 'suspension_id',
  'waitpoint_id', 'waitpoint_key', 'reason_code', 'requested_by', 'timeout_at', 'resume_condition_json',
  'resume_policy_json' }

-- Reason code -> blocking_reason; any other code waits for a signal.
local BLOCKING_REASONS = {
  waiting_for_approval = 'waiting_for_approval',
  waiting_for_callback = 'waiting_for_callback',
  waiting_for_tool_result = 'waiting_for_tool_result',
  waiting_for_operator_review = 'paused_by_operator',
  paused_by_policy = 'paused_by_policy',
  paused_by_budget = 'waiting_for_budget',
  manual_pause = 'paused_by_operator',
}

-- The suspended index's score of a suspension without a timeout: behind all others.
local NO_TIMEOUT_SCORE = 9999999999999

-- Nothing updates this summary; the waitpoint counts its signals.
local NO_SIGNALS_SUMMARY = '{"total_count":0,"matched_count":0,"signal_names":[]}'

-- Returns the number of history entries to keep, or nil when XADD would not take it. XADD takes no -0; the sum is 0.
local function history_length_of(value)
  local length = tonumber(value)
  return length and is_command_integer(length) and length >= 0 and length + 0 or nil
end

-- Refuses unless the lease holder may suspend. Returns whether an earlier suspension, closed, is still on record.
local function require_suspendable(core, lease_history, suspension, args, history_length, now_ms)
  -- LEASE_FIELDS, and one more.
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'lease_expires_at', 'current_lease_id',
    'current_lease_epoch', 'current_attempt_id', 'terminal_outcome', 'current_attempt_index')
  require_lease(core, lease_history, record, args[4], args[5], args[3], now_ms, history_length)
  if record[8] ~= args[2] then
    refuse('invalid_lease_for_suspend')
  end
  if redis.call('EXISTS', suspension) == 0 then
    return false
  end
  if not is_set(redis.call('HGET', suspension, 'closed_at')) then
    refuse('already_suspended')
  end
  return true
end

-- Makes room for a new suspension: of the closed one only its waitpoint's id is kept.
local function archive_suspension(suspension, waitpoints)
  local waitpoint_id = redis.call('HGET', suspension, 'waitpoint_id')
  if is_set(waitpoint_id) then
    redis.call('SADD', waitpoints, waitpoint_id)
  end
  redis.call('DEL', suspension)
end

-- Reads the pending waitpoint that the suspension is to use: {id, key, token}, or nil and the code to refuse with.
local function pending_waitpoint(waitpoint, args, now_ms)
  local record = redis.call('HMGET', waitpoint, 'state', 'execution_id', 'attempt_index', 'expires_at',
    'waitpoint_token', 'waitpoint_id', 'waitpoint_key')
  if record[1] ~= 'pending' then
    local is_found = record[1] or redis.call('EXISTS', waitpoint) == 1
    return nil, is_found and 'waitpoint_not_pending' or 'waitpoint_not_found'
  end
  if record[2] ~= args[1] or record[3] ~= args[2] then
    return nil, 'invalid_waitpoint_for_execution'
  end
  local expires_at_ms = tonumber(record[4])
  if expires_at_ms and expires_at_ms <= now_ms then
    return nil, 'pending_waitpoint_expired'
  end
  if not is_set(record[5]) then
    return nil, 'waitpoint_not_token_bound'
  end
  return { id = record[6] or args[7], key = record[7] or '', token = record[5] }
end

-- Returns what a new waitpoint's token is signed with: {kid, secret}, or nil and the code to refuse with.
local function new_waitpoint(hmac_secrets)
  local kid, secret = signing_secret(hmac_secrets)
  if not kid then
    return nil, secret
  end
  return { kid = kid, secret = secret }
end

-- Writes a waitpoint that is active from the start, and completes point with its id, key and token.
local function open_waitpoint(waitpoint, point, args, now_ms)
  point.id, point.key = args[7], args[8]
  point.token = mint_token(point.kid, point.secret, point.id, point.key, now_ms)
  redis.call('HSET', waitpoint,
    'waitpoint_id', point.id,
    'execution_id', args[1],
    'attempt_index', args[2],
    'suspension_id', args[6],
    'waitpoint_key', point.key,
    'waitpoint_token', point.token,
    'state', 'active',
    'created_at', now_ms,
    'activated_at', now_ms,
    'expires_at', args[11],
    'signal_count', '0',
    'matched_signal_count', '0',
    'last_signal_at', '')
end

-- Gives the signals that the waitpoint has buffered to the condition. Returns whether they satisfy it.
local function replay_buffered(wp_signals, condition)
  local entries = redis.call('XRANGE', wp_signals, '-', '+')
  for _, entry in ipairs(entries) do
    local fields, name, id = entry[2], nil, nil
    for position = 1, #fields, 2 do
      if fields[position] == 'signal_name' then
        name = name or fields[position + 1]
      elseif fields[position] == 'signal_id' then
        id = id or fields[position + 1]
      end
    end
    match_buffered_signal(condition, name, id or '')
  end
  return #entries > 0
    and is_condition_satisfied(condition.mode, condition.satisfied, condition.minimum, #condition.names)
end

-- Turns the pending waitpoint active, or closed when its signals have come already.
local function activate_waitpoint(waitpoint, pending_wp_expiry, point, args, is_satisfied, now_ms)
  redis.call('HSET', waitpoint,
    'suspension_id', args[6],
    'state', is_satisfied and 'closed' or 'active',
    'activated_at', now_ms,
    'expires_at', args[11])
  if is_satisfied then
    redis.call('HSET', waitpoint, 'satisfied_at', now_ms, 'closed_at', now_ms, 'close_reason', 'resumed')
  end
  redis.call('ZREM', pending_wp_expiry, point.id)
end

local function suspend_record(core, attempt, args, point, now_ms)
  redis.call('HSET', core,
    'lifecycle_phase', 'suspended',
    'ownership_state', 'unowned',
    'eligibility_state', 'not_applicable',
    'blocking_reason', BLOCKING_REASONS[args[9]] or 'waiting_for_signal',
    'blocking_detail', 'suspended: waitpoint ' .. point.id .. ' awaiting ' .. args[9],
    'terminal_outcome', 'none',
    'attempt_state', 'attempt_interrupted',
    'public_state', 'suspended',
    'current_lease_id', '',
    'current_worker_id', '',
    'current_worker_instance_id', '',
    'lease_expires_at', '',
    'lease_last_renewed_at', '',
    'lease_renewal_deadline', '',
    'current_suspension_id', args[6],
    'current_waitpoint_id', point.id,
    'last_transition_at', now_ms,
    'last_mutation_at', now_ms)
  redis.call('HSET', attempt, 'attempt_state', 'suspended', 'suspended_at', now_ms, 'suspension_id', args[6])
end

local function release_suspended_lease(keys, args, history_length, now_ms)
  local lease_current, lease_history, lease_expiry, worker_leases = keys[3], keys[4], keys[5], keys[6]
  local active, attempt_timeout = keys[12], keys[16]
  local execution_id = args[1]
  redis.call('DEL', lease_current)
  redis.call('ZREM', lease_expiry, execution_id)
  redis.call('SREM', worker_leases, execution_id)
  redis.call('ZREM', active, execution_id)
  redis.call('ZREM', attempt_timeout, execution_id)
  redis.call('XADD', lease_history, 'MAXLEN', '~', history_length, '*',
    'event', 'released',
    'lease_id', args[4],
    'lease_epoch', args[5],
    'attempt_index', args[2],
    'attempt_id', args[3],
    'reason', 'suspend',
    'ts', now_ms)
end

local function write_suspension(suspension, args, point, now_ms)
  redis.call('HSET', suspension,
    'suspension_id', args[6],
    'execution_id', args[1],
    'attempt_index', args[2],
    'waitpoint_id', point.id,
    'waitpoint_key', point.key,
    'reason_code', args[9],
    'requested_by', args[10],
    'created_at', now_ms,
    'timeout_at', args[11],
    'timeout_behavior', args[16] or 'fail',
    'resume_condition_json', args[12],
    'resume_policy_json', args[13],
    'continuation_metadata_pointer', args[14] or '',
    'buffered_signal_summary_json', NO_SIGNALS_SUMMARY,
    'last_signal_at', '',
    'satisfied_at', '',
    'closed_at', '',
    'close_reason', '')
end

-- ff_suspend_execution: give up the lease and wait for signals at a waitpoint, new or handed out before.
-- KEYS  1 core                hash    the execution record
--       2 attempt             hash    the current one
--       3 lease_current       hash
--       4 lease_history       stream
--       5 lease_expiry        zset    execution id -> lease expiry
--       6 worker_leases       set     executions of the worker instance
--       7 suspension          hash
--       8 waitpoint           hash    of waitpoint_id, like wp_signals and wp_condition
--       9 wp_signals          stream  signals that a pending waitpoint has buffered
--      10 suspension_timeout  zset    execution id -> timeout
--      11 pending_wp_expiry   zset    waitpoint id -> expiry
--      12 active              zset    the lane's
--      13 suspended           zset    the lane's
--      14 waitpoints          set     waitpoint ids of the execution
--      15 wp_condition        hash
--      16 attempt_timeout     zset    execution id -> timeout
--      17 hmac_secrets        hash    the secrets that sign tokens
-- ARGV  1 execution_id
--       2 attempt_index                  compared as text
--       3 attempt_id
--       4 lease_id
--       5 lease_epoch                    compared as text
--       6 suspension_id
--       7 waitpoint_id
--       8 waitpoint_key                  of a new waitpoint
--       9 reason_code
--      10 requested_by
--      11 timeout_at                     number, ms; empty for no timeout
--      12 resume_condition_json          see write_condition
--      13 resume_policy_json             stored only
--      14 continuation_metadata_pointer  stored only
--      15 use_pending_waitpoint          1 for the pending waitpoint of this id; anything else makes a new one
--      16 timeout_behavior               absent for fail; see ff_expire_suspension
--      17 lease_history_maxlen           integer >= 0; absent for 1000
-- Replies  ok(suspension_id, waitpoint_id, waitpoint_key, token)
--          already_satisfied(the same)  buffered signals satisfy the condition: the lease is kept
-- Refuses  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease
--          invalid_lease_for_suspend  already_suspended  waitpoint_not_found  waitpoint_not_pending
--          invalid_waitpoint_for_execution  pending_waitpoint_expired  waitpoint_not_token_bound
--          invalid_keys_missing_hmac  hmac_secret_not_initialized  invalid_secret  invalid_input
register('ff_suspend_execution', function(keys, args)
  local core, attempt, lease_history, suspension, waitpoint = keys[1], keys[2], keys[4], keys[7], keys[8]
  local wp_signals, suspension_timeout, pending_wp_expiry, suspended = keys[9], keys[10], keys[11], keys[13]
  local waitpoints, wp_condition, hmac_secrets = keys[14], keys[15], keys[17]
  local execution_id, suspension_id, timeout_at, activates = args[1], args[6], args[11], args[15] == '1'
  local now_ms = server_time_ms()
  local history_length = history_length_of(args[17] or 1000)
  local has_earlier = require_suspendable(core, lease_history, suspension, args, history_length, now_ms)
  local point, refusal
  if activates then
    point, refusal = pending_waitpoint(waitpoint, args, now_ms)
  else
    point, refusal = new_waitpoint(hmac_secrets)
  end
  if has_earlier and refusal then
    archive_suspension(suspension, waitpoints)
  end
  if refusal then
    refuse(refusal)
  end
  text_argument(args[#SUSPEND_ARGUMENTS], SUSPEND_ARGUMENTS[#args + 1]) -- names the first that is absent
  local condition = condition_argument(args[12])
  local is_satisfied = activates and replay_buffered(wp_signals, condition)
  if not is_satisfied and not history_length then
    refuse('invalid_input', 'lease_history_maxlen must be an integer >= 0, got: ' .. args[17])
  end
  local timeout_ms = not is_satisfied and timeout_at ~= '' and score_argument(timeout_at, 'timeout_at')
  require_keys(keys, is_satisfied and 15 or 16)

  if has_earlier then
    archive_suspension(suspension, waitpoints)
  end
  if activates then
    activate_waitpoint(waitpoint, pending_wp_expiry, point, args, is_satisfied, now_ms)
  else
    open_waitpoint(waitpoint, point, args, now_ms)
  end
  write_condition(wp_condition, condition, now_ms)
  if is_satisfied then
    return already_satisfied(suspension_id, point.id, point.key, point.token)
  end
  redis.call('SADD', waitpoints, point.id)
  suspend_record(core, attempt, args, point, now_ms)
  release_suspended_lease(keys, args, history_length, now_ms)
  write_suspension(suspension, args, point, now_ms)
  redis.call('ZADD', suspended, timeout_ms or NO_TIMEOUT_SCORE, execution_id)
  if timeout_ms then
    redis.call('ZADD', suspension_timeout, timeout_ms, execution_id)
  end
  return ok(suspension_id, point.id, point.key, point.token)
end)
