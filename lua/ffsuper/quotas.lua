-- Quotas: admission by the policy as it is stored, and giving back what is not used.

-- Takes an admission back, if there is one; returns whether there was. Where only the rate is limited the guard stays:
-- a retry within the window is no new request.
local function take_back(quota, guard, admitted, concurrency, stamps, execution_id)
  redis.call('HDEL', stamps, execution_id)
  if redis.call('SREM', admitted, execution_id) == 0 then
    return false
  end
  if stored_number(redis.call('HGET', quota, 'active_concurrency_cap')) > 0 then
    redis.call('DEL', guard)
  end
  if stored_number(redis.call('GET', concurrency)) > 0 then
    redis.pcall('DECR', concurrency) -- text that it cannot read is left to the reconciler
  end
  return true
end

-- ffsuper_admit: admit an execution to a quota, by the stored policy and on the server's clock. One that is admitted
-- already, from an earlier start, counts once.
-- KEYS  1 window       zset    execution id -> time of its admission
--       2 concurrency  string  the number of admissions
--       3 quota        hash    the definition
--       4 guard        string  exists for a window's length after this execution's admission
--       5 admitted     set     execution ids
--       6 stamps       hash    execution id -> time of the last call that admitted it, in us
-- ARGV  1 execution_id
-- Replies  ok(word, rate, window_seconds, cap), the word ADMITTED, ALREADY_ADMITTED, RATE_EXCEEDED or CONCURRENCY_EXCEEDED;
--          UNLIMITED for a policy that limits nothing, or is not there
-- Refuses  invalid_input
register('ffsuper_admit', function(keys, args)
  local window, concurrency, quota, guard, admitted, stamps = keys[1], keys[2], keys[3], keys[4], keys[5], keys[6]
  local execution_id = text_argument(args[1], 'execution_id')
  local policy = redis.call('HMGET', quota, 'max_requests_per_window', 'requests_per_window_seconds',
    'active_concurrency_cap', 'jitter_ms')
  local rate, window_seconds, cap = stored_number(policy[1]), tonumber(policy[2] or 60) or 60, stored_number(policy[3])
  if rate <= 0 and cap <= 0 then
    return ok('UNLIMITED', tostring(rate), tostring(window_seconds), tostring(cap))
  end
  if redis.call('EXISTS', guard) == 0 then
    take_back(quota, guard, admitted, concurrency, stamps, execution_id)
  end
  local reply = call_protocol('ff_check_admission_and_record', { window, concurrency, quota, guard, admitted }, {
    tostring(server_time_ms()), tostring(window_seconds), tostring(rate), tostring(cap), execution_id,
    tostring(stored_number(policy[4])),
  })
  if reply[1] == 'ADMITTED' or reply[1] == 'ALREADY_ADMITTED' then
    local time = redis.call('TIME')
    redis.call('HSET', stamps, execution_id, string.format('%.0f', time[1] * 1000000 + time[2]))
  end
  return ok(reply[1], tostring(rate), tostring(window_seconds), tostring(cap))
end)

-- ffsuper_give_back: take back the admission of an execution that does not run, unless it was admitted again since that
-- was found out. A repeat is harmless.
-- KEYS  1 quota        hash    the definition
--       2 guard        string  the admission's repeat guard
--       3 admitted     set     execution ids
--       4 concurrency  string  the number of admissions
--       5 stamps       hash    execution id -> time of the last call that admitted it
-- ARGV  1 execution_id
--       2 stamp         as it was before the execution was looked at; empty when there was none
-- Replies  ok('given_back')  ok('kept') when there is none, or a newer one
-- Refuses  invalid_input
register('ffsuper_give_back', function(keys, args)
  local execution_id, stamp = text_argument(args[1], 'execution_id'), text_argument(args[2], 'stamp')
  if (redis.call('HGET', keys[5], execution_id) or '') ~= stamp then
    return ok('kept')
  end
  return ok(take_back(keys[1], keys[2], keys[3], keys[4], keys[5], execution_id) and 'given_back' or 'kept')
end)
