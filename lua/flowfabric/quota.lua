-- Quotas: create a policy, admit executions within its rate and its concurrency, release an admission.
-- Every time in them is the caller's; only the guard's expiry runs on the server's clock.

-- ff_create_quota_policy: record a quota policy.
-- KEYS  1 quota        hash    the definition
--       2 window       zset    not touched
--       3 concurrency  string  the number of admissions; starts at 0
--       4 admitted     set     not touched
--       5 policies     set     quota policy ids
-- ARGV  1 quota_policy_id
--       2 window_seconds    stored only, like the rest
--       3 rate_limit        0 for none
--       4 concurrency_cap   0 for none
--       5 now_ms
-- Replies  ok(quota_policy_id)  already_satisfied(quota_policy_id)
-- Refuses  invalid_input
register('ff_create_quota_policy', function(keys, args)
  local quota, concurrency, policies = keys[1], keys[3], keys[5]
  local quota_policy_id = args[1]
  if redis.call('EXISTS', quota) == 1 then
    return already_satisfied(quota_policy_id)
  end
  text_argument(quota_policy_id, 'quota_policy_id')
  local window_seconds = text_argument(args[2], 'window_seconds')
  local rate_limit = text_argument(args[3], 'rate_limit')
  local concurrency_cap = text_argument(args[4], 'concurrency_cap')
  local now = text_argument(args[5], 'now_ms')
  require_keys(keys, 5)

  redis.call('HSET', quota,
    'quota_policy_id', quota_policy_id,
    'requests_per_window_seconds', window_seconds,
    'max_requests_per_window', rate_limit,
    'active_concurrency_cap', concurrency_cap,
    'created_at', now)
  redis.call('SET', concurrency, 0)
  redis.call('SADD', policies, quota_policy_id)
  return ok(quota_policy_id)
end)

-- How long until the oldest admission after the cutoff leaves the window, with up to jitter_ms added by chance.
local function retry_after_ms(window, after_cutoff, window_ms, now_ms, jitter)
  local jitter_ms = number_argument(jitter or 0, 'jitter_ms')
  if jitter_ms == math.huge then
    refuse('invalid_input', 'jitter_ms must be an integer, got: ' .. jitter)
  end
  local oldest = redis.call('ZRANGE', window, after_cutoff, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  local wait_ms = math.max(0, tonumber(oldest[2]) + window_ms - now_ms)
  if jitter_ms > 0 then
    wait_ms = wait_ms + math.floor(math.random() * (math.floor(jitter_ms) + 1))
  end
  return wait_ms
end

-- ff_check_admission_and_record: admit an execution unless the rate or the concurrency is used up.
-- KEYS  1 window       zset    execution id -> time of its admission
--       2 concurrency  string  the number of admissions
--       3 quota        hash    not touched: all limits are arguments
--       4 guard        string  exists for a window's length after this execution's admission
--       5 admitted     set     execution ids
-- ARGV  1 now_ms
--       2 window_seconds   number; whole in ms when > 0
--       3 rate_limit       number; none unless > 0
--       4 concurrency_cap  number; none unless > 0
--       5 execution_id
--       6 jitter_ms        number; absent for 0; read when the rate is used up
-- Replies  {'ADMITTED'}  {'ALREADY_ADMITTED'}  {'RATE_EXCEEDED', retry_after_ms}  {'CONCURRENCY_EXCEEDED'}
-- Refuses  invalid_input
register('ff_check_admission_and_record', function(keys, args)
  local window, concurrency, guard, admitted = keys[1], keys[2], keys[4], keys[5]
  local now_ms, window_seconds = number_argument(args[1], 'now_ms'), number_argument(args[2], 'window_seconds')
  local rate_limit = number_argument(args[3], 'rate_limit')
  local concurrency_cap = number_argument(args[4], 'concurrency_cap')
  local execution_id = args[5]
  if redis.call('EXISTS', guard) == 1 then
    return { 'ALREADY_ADMITTED' }
  end
  local window_ms = window_seconds * 1000
  local cutoff_ms = now_ms - window_ms
  if cutoff_ms ~= cutoff_ms then
    refuse('invalid_input', 'now_ms - window_seconds must be a number, got: ' .. args[1] .. ' - ' .. args[2])
  end

  -- The window is trimmed on every answer, but not before the arguments of that answer have been looked at. What
  -- trimming leaves is above the cutoff.
  local after_cutoff = string.format('(%.17g', cutoff_ms)
  local refusal
  if rate_limit > 0 and redis.call('ZCOUNT', window, after_cutoff, '+inf') >= rate_limit then
    refusal = { 'RATE_EXCEEDED', tostring(retry_after_ms(window, after_cutoff, window_ms, now_ms, args[6])) }
  elseif concurrency_cap > 0 and (tonumber(redis.call('GET', concurrency) or 0) or 0) >= concurrency_cap then
    refusal = { 'CONCURRENCY_EXCEEDED' }
  end
  if refusal then
    redis.call('ZREMRANGEBYSCORE', window, '-inf', cutoff_ms)
    return refusal
  end
  text_argument(execution_id, 'execution_id')
  if window_ms > 0 and not is_command_integer(window_ms) then
    refuse('invalid_input', 'window_seconds must be an integer in ms, got: ' .. args[2])
  end
  require_keys(keys, 5)

  redis.call('ZREMRANGEBYSCORE', window, '-inf', cutoff_ms)
  redis.call('ZADD', window, now_ms, execution_id)
  if window_ms > 0 then
    redis.call('SET', guard, '1', 'PX', window_ms)
  end
  if concurrency_cap > 0 and type(redis.pcall('INCR', concurrency)) == 'table' then
    -- A damaged counter counts as 0, here and in the reconciler.
    redis.call('SET', concurrency, 1)
  end
  redis.call('SADD', admitted, execution_id)
  return { 'ADMITTED' }
end)

-- ff_release_admission: take back an admission whose execution was not started.
-- KEYS  1 guard        string  the admission's repeat guard
--       2 admitted     set     execution ids
--       3 concurrency  string  the number of admissions
-- ARGV  1 execution_id
-- Replies  ok('released')
-- Refuses  invalid_input
register('ff_release_admission', function(keys, args)
  local guard, admitted, concurrency = keys[1], keys[2], keys[3]
  local execution_id = text_argument(args[1], 'execution_id')
  require_keys(keys, 3)
  local active = tonumber(redis.call('GET', concurrency) or 0) or 0

  redis.call('DEL', guard)
  redis.call('SREM', admitted, execution_id)
  if active > 0 then
    -- Counts what can be counted: text that DECR cannot read is left to the reconciler.
    redis.pcall('DECR', concurrency)
  end
  return ok('released')
end)
