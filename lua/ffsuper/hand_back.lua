-- Leases that are given up before a handler was called: a worker has claimed ahead, and cannot start the execution soon.

-- Whether no handler was called for an attempt before the lease that is given up now. One that goes on has begun: what it
-- waited for has come. ffsuper_claim_first removes resumed_at where it tells that an attempt begins.
local function is_unbegun(attempt)
  local record = redis.call('HMGET', attempt, 'attempt_type', 'resumed_at')
  return is_set(record[1]) and not is_set(record[2])
end

-- ffsuper_hand_back: give up a lease whose handler was never called, so that the same attempt can be claimed at once.
-- KEYS  1 core             hash    the execution record
--       2 attempt          hash    the current one; gets the field not_begun, unless it goes on, for ffsuper_claim_first
--       3 lease_current    hash
--       4 lease_history    stream
--       5 lease_expiry     zset    execution id -> lease expiry
--       6 worker_leases    set     executions of the worker instance
--       7 active           zset    the lane's
--       8 delayed          zset    the lane's
--       9 attempt_timeout  zset    execution id -> timeout
--      10 eligible         zset    the lane's
-- ARGV  1 execution_id
--       2 lease_id
--       3 lease_epoch  compared as text
--       4 attempt_id
-- Replies  ok('0'), as ff_delay_execution for a delay until 0
-- Refuses  execution_not_found  execution_not_active  lease_revoked  lease_expired  stale_lease  invalid_input
register('ffsuper_hand_back', function(keys, args)
  local core, attempt, lease_history, delayed = keys[1], keys[2], keys[4], keys[8]
  local execution_id = args[1]
  require_keys(keys, 10)
  require_holder(core, lease_history, args, server_time_ms())
  local has_not_begun = is_unbegun(attempt)
  local reply = call_protocol('ff_delay_execution',
    { core, attempt, keys[3], lease_history, keys[5], keys[6], keys[7], delayed, keys[9] },
    { execution_id, args[2], args[3], args[4], '0' })
  if has_not_begun then
    redis.call('HSET', attempt, 'not_begun', '1')
  end
  call_protocol('ff_promote_delayed', { core, delayed, keys[10] }, { execution_id, tostring(server_time_ms()) })
  return reply
end)
