-- Signals: deliver one to a waitpoint, buffer one for a waitpoint that waits for its suspension.
-- Both functions take the same eighteen arguments and the same first eight keys.

-- Refuses unless the signal comes with a token of this waitpoint. point: {created_at, waitpoint_key, ...}
local function require_token(core, hmac_secrets, point, args, now_ms)
  local created_at = tonumber(point[1]) or 0
  local fault = token_fault(hmac_secrets, args[18], args[3], point[2] or '', created_at, now_ms)
  if fault then
    redis.call('HSET', core, 'last_hmac_validation_failed_at', now_ms)
    refuse(fault)
  end
end

-- Refuses a signal over the execution's limit.
local function require_signal_room(exec_signals, max_signals)
  local limit = number_argument(max_signals, 'max_signals_per_execution')
  if limit > 0 and redis.call('ZCARD', exec_signals) >= limit then
    refuse('signal_limit_exceeded')
  end
end

-- Whether the signal is to be remembered by its idempotency key.
local function is_deduplicated(args)
  local idempotency_key, ttl_ms = args[10], tonumber(args[14])
  return idempotency_key ~= '' and ttl_ms and ttl_ms > 0
end

-- Returns the id of the first signal under the same idempotency key, or false.
local function earlier_signal(dedup, args)
  return is_deduplicated(args) and redis.call('GET', dedup)
end

-- Refuses what the protocol's checks let through and its writes would stumble over: a waitpoint of another execution,
-- whose token would resume this one, and numbers that Redis does not take.
local function require_recordable(owner_id, args)
  if is_set(owner_id) and owner_id ~= args[2] then
    refuse('invalid_waitpoint_for_execution')
  end
  if is_deduplicated(args) and not is_command_integer(tonumber(args[14])) then
    refuse('invalid_input', 'dedup_ttl_ms must be an integer, got: ' .. args[14])
  end
  local signal_maxlen = number_argument(args[16], 'signal_maxlen')
  if not is_command_integer(signal_maxlen) or signal_maxlen < 0 then
    refuse('invalid_input', 'signal_maxlen must be an integer >= 0, got: ' .. args[16])
  end
end

local function record_signal(keys, args, observed_effect, now_ms)
  local wp_signals, exec_signals, signal, signal_payload, dedup = keys[3], keys[4], keys[5], keys[6], keys[7]
  local signal_id, payload, created_at = args[1], args[8], args[13]
  if is_deduplicated(args) then
    redis.call('SET', dedup, signal_id, 'PX', tonumber(args[14]), 'NX')
  end
  redis.call('HSET', signal,
    'signal_id', signal_id,
    'target_execution_id', args[2],
    'target_waitpoint_id', args[3],
    'target_scope', args[12],
    'signal_name', args[4],
    'signal_category', args[5],
    'source_type', args[6],
    'source_identity', args[7],
    'correlation_id', args[11],
    'idempotency_key', args[10],
    'created_at', created_at ~= '' and created_at or now_ms,
    'accepted_at', now_ms,
    'matched_waitpoint_id', args[3],
    'payload_encoding', args[9],
    'observed_effect', observed_effect)
  if payload ~= '' then
    redis.call('SET', signal_payload, payload)
  end
  redis.call('XADD', wp_signals, 'MAXLEN', '~', tonumber(args[16]) + 0, '*', -- XADD takes no -0; the sum is 0
    'signal_id', signal_id,
    'signal_name', args[4],
    'signal_category', args[5],
    'source_type', args[6],
    'source_identity', args[7],
    'matched', '0',
    'accepted_at', now_ms)
  redis.call('ZADD', exec_signals, now_ms, signal_id)
end

-- Refuses where no signal can have an effect now. phase: the execution's; state: the waitpoint's
local function require_signalable(phase, state)
  if phase == 'terminal' then
    refuse('target_not_signalable')
  end
  if phase == 'active' or phase == 'runnable' or phase == 'submitted' then
    if state == 'pending' then
      refuse('waitpoint_pending_use_buffer_script')
    end
    if state ~= 'active' then
      refuse('target_not_signalable')
    end
  end
end

-- Counts a signal that leaves the condition open. point: {..., [5] signal_count, [6] matched_signal_count}
local function count_signal(waitpoint, suspension, point, is_matched, now_ms)
  local signal_count = (tonumber(point[5]) or 0) + 1
  if is_matched then
    redis.call('HSET', waitpoint, 'signal_count', signal_count,
      'matched_signal_count', (tonumber(point[6]) or 0) + 1, 'last_signal_at', now_ms)
  else
    redis.call('HSET', waitpoint, 'signal_count', signal_count, 'last_signal_at', now_ms)
  end
  if redis.call('EXISTS', suspension) == 1 then
    redis.call('HSET', suspension, 'last_signal_at', now_ms)
  end
end

-- Counts the signal that satisfies the condition, and closes the waitpoint and the suspension.
local function close_satisfied(waitpoint, suspension, point, now_ms)
  redis.call('HSET', waitpoint,
    'signal_count', (tonumber(point[5]) or 0) + 1,
    'matched_signal_count', (tonumber(point[6]) or 0) + 1,
    'last_signal_at', now_ms,
    'state', 'closed',
    'satisfied_at', now_ms,
    'closed_at', now_ms,
    'close_reason', 'resumed')
  if redis.call('EXISTS', suspension) == 1 then
    redis.call('HSET', suspension,
      'last_signal_at', now_ms,
      'satisfied_at', now_ms,
      'closed_at', now_ms,
      'close_reason', 'resumed')
  end
end

-- ff_deliver_signal: hand a signal to a waitpoint, and resume its execution when the condition is satisfied.
-- KEYS  1 core                hash    the execution record
--       2 wp_condition        hash    the waitpoint's condition
--       3 wp_signals          stream  signals that reached the waitpoint
--       4 exec_signals        zset    signal id -> acceptance
--       5 signal              hash    the signal's record
--       6 signal_payload      string  only when there is a payload
--       7 dedup               string  id of the first signal under the idempotency key
--       8 waitpoint           hash
--       9 suspension          hash
--      10 eligible            zset    the lane's
--      11 suspended           zset    the lane's
--      12 delayed             zset    the lane's
--      13 suspension_timeout  zset    execution id -> timeout
--      14 hmac_secrets        hash    the secrets that sign tokens
-- ARGV  1 signal_id
--       2 execution_id
--       3 waitpoint_id
--       4 signal_name                matches the condition's names; empty matches wildcards only
--       5 signal_category            stored, like the next two
--       6 source_type
--       7 source_identity
--       8 payload                    any bytes; empty for none
--       9 payload_encoding
--      10 idempotency_key            empty for none
--      11 correlation_id             stored, like the next two
--      12 target_scope
--      13 created_at                 empty for the server's time
--      14 dedup_ttl_ms               integer; no deduplication unless > 0
--      15 resume_delay_ms            number; read only when the signal resumes the execution
--      16 signal_maxlen              integer >= 0: signals kept in wp_signals, about
--      17 max_signals_per_execution  number; no limit unless > 0
--      18 waitpoint_token
-- Replies  ok(signal_id, effect)  no_op, appended_to_waitpoint or resume_condition_satisfied
--          {1, 'DUPLICATE', first_signal_id}
-- Refuses  execution_not_found  invalid_token  invalid_keys_missing_hmac  missing_token  hmac_secret_not_initialized
--          token_expired  invalid_secret  target_not_signalable  waitpoint_pending_use_buffer_script
--          waitpoint_not_found  waitpoint_closed  signal_limit_exceeded  invalid_waitpoint_for_execution  invalid_input
register('ff_deliver_signal', function(keys, args)
  local core, wp_condition, exec_signals, dedup, waitpoint = keys[1], keys[2], keys[4], keys[7], keys[8]
  local suspension, suspension_timeout, hmac_secrets = keys[9], keys[13], keys[14]
  local signal_id, execution_id, signal_name = args[1], args[2], args[4]
  local record = require_execution(core, 'lifecycle_phase', 'priority', 'created_at')
  local point = redis.call('HMGET', waitpoint, 'created_at', 'waitpoint_key', 'execution_id', 'state', 'signal_count',
    'matched_signal_count')
  if not point[1] then
    refuse('invalid_token')
  end
  local now_ms = server_time_ms()
  require_token(core, hmac_secrets, point, args, now_ms)
  require_signalable(record[1], point[4])
  local condition = require_open_condition(wp_condition)
  require_signal_room(exec_signals, args[17])
  local earlier_id = earlier_signal(dedup, args)
  if earlier_id then
    return { 1, 'DUPLICATE', earlier_id }
  end
  require_recordable(point[3], args)
  local matcher = find_matcher(wp_condition, condition, signal_name)
  local satisfied = condition.satisfied + 1
  local is_satisfied = matcher and is_condition_satisfied(condition.mode, satisfied, condition.minimum, condition.total)
  local resumes = is_satisfied and record[1] == 'suspended'
  local delay_ms = resumes and number_argument(args[15], 'resume_delay_ms')

  local effect = is_satisfied and 'resume_condition_satisfied' or matcher and 'appended_to_waitpoint' or 'no_op'
  record_signal(keys, args, effect, now_ms)
  if matcher then
    local name = 'matcher:' .. matcher
    redis.call('HSET', wp_condition, name .. ':satisfied', '1', name .. ':signal_id', signal_id,
      'satisfied_count', satisfied)
  end
  if resumes then
    local indexes = { eligible = keys[10], suspended = keys[11], delayed = keys[12] }
    local detail = 'resume delay ' .. delay_ms .. 'ms after signal ' .. signal_name
    resume_suspended(core, execution_id, indexes, record[2], record[3], delay_ms, detail, now_ms)
  end
  if is_satisfied then
    redis.call('HSET', wp_condition, 'closed', '1', 'closed_at', now_ms, 'closed_reason', 'satisfied')
    close_satisfied(waitpoint, suspension, point, now_ms)
    redis.call('ZREM', suspension_timeout, execution_id)
  else
    count_signal(waitpoint, suspension, point, matcher, now_ms)
  end
  return ok(signal_id, effect)
end)

-- ff_buffer_signal_for_pending_waitpoint: keep a signal until its waitpoint is used by a suspension.
-- KEYS  1 core            hash    the execution record
--       2 wp_condition    hash    not touched
--       3 wp_signals      stream  signals that reached the waitpoint
--       4 exec_signals    zset    signal id -> acceptance
--       5 signal          hash    the signal's record
--       6 signal_payload  string  only when there is a payload
--       7 dedup           string  id of the first signal under the idempotency key
--       8 waitpoint       hash    read only
--       9 hmac_secrets    hash    the secrets that sign tokens
-- ARGV  1 signal_id                  this and all others as in ff_deliver_signal
--       2 execution_id
--       3 waitpoint_id
--       4 signal_name
--       5 signal_category
--       6 source_type
--       7 source_identity
--       8 payload
--       9 payload_encoding
--      10 idempotency_key
--      11 correlation_id
--      12 target_scope
--      13 created_at
--      14 dedup_ttl_ms
--      15 resume_delay_ms            not read
--      16 signal_maxlen
--      17 max_signals_per_execution
--      18 waitpoint_token
-- Replies  ok(signal_id, 'buffered_for_pending_waitpoint')  {1, 'DUPLICATE', first_signal_id}
-- Refuses  execution_not_found  waitpoint_not_found  invalid_keys_missing_hmac  missing_token  invalid_token
--          hmac_secret_not_initialized  token_expired  invalid_secret  waitpoint_closed  signal_limit_exceeded
--          invalid_waitpoint_for_execution  invalid_input
register('ff_buffer_signal_for_pending_waitpoint', function(keys, args)
  local core, exec_signals, dedup, waitpoint, hmac_secrets = keys[1], keys[4], keys[7], keys[8], keys[9]
  require_execution(core, 'lifecycle_phase')
  local point = redis.call('HMGET', waitpoint, 'created_at', 'waitpoint_key', 'execution_id', 'state')
  if not point[1] then
    refuse('waitpoint_not_found')
  end
  local now_ms = server_time_ms()
  require_token(core, hmac_secrets, point, args, now_ms)
  if point[4] == 'closed' or point[4] == 'expired' then
    refuse('waitpoint_closed')
  end
  require_signal_room(exec_signals, args[17])
  local earlier_id = earlier_signal(dedup, args)
  if earlier_id then
    return { 1, 'DUPLICATE', earlier_id }
  end
  require_recordable(point[3], args)

  record_signal(keys, args, 'buffered_for_pending_waitpoint', now_ms)
  return ok(args[1], 'buffered_for_pending_waitpoint')
end)
