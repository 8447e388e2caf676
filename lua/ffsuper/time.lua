-- The sweeps that make time pass, a page of an index in one call.

-- ffsuper_promote_delayed: make delayed executions claimable whose time has come.
-- KEYS  1 delayed   zset  the lane's: execution id -> due time
--       2 eligible  zset  the lane's
-- ARGV  1 since_ms  a score, -inf for all
--       2 offset
--       3 limit
-- Replies  ok(now_ms, seen, still_due, failed, failed_id, why, outcome, count, ...)
-- Refuses  invalid_input
register('ffsuper_promote_delayed', function(keys, args)
  local delayed, eligible = keys[1], keys[2]
  local tag = tag_of(delayed)
  return sweep(delayed, args, function(execution_id, now)
    return carry_out('ff_promote_delayed', { exec_key(tag, execution_id, 'core'), delayed, eligible },
      { execution_id, now })
  end)
end)

-- ffsuper_mark_expired: mark the leases that ran out, so that their executions can be taken over.
-- KEYS  1 lease_expiry  zset  execution id -> lease expiry; keeps what is marked
-- ARGV  1 since_ms  a score, -inf for all
--       2 offset
--       3 limit
-- Replies  ok(now_ms, seen, still_due, failed, failed_id, why, outcome, count, ...)
-- Refuses  invalid_input
register('ffsuper_mark_expired', function(keys, args)
  local lease_expiry = keys[1]
  local tag = tag_of(lease_expiry)
  return sweep(lease_expiry, args, function(execution_id)
    return carry_out('ff_mark_lease_expired_if_due', {
      exec_key(tag, execution_id, 'core'), exec_key(tag, execution_id, 'lease:current'), lease_expiry,
      exec_key(tag, execution_id, 'lease:history'),
    }, { execution_id })
  end)
end)

-- ffsuper_expire_executions: end the executions whose time is over.
-- KEYS  1 due  zset  execution id -> attempt timeout, or deadline
-- ARGV  1 since_ms  a score, -inf for all
--       2 offset
--       3 limit
--       4 reason    attempt_timeout or execution_deadline
-- Replies  ok(now_ms, seen, still_due, failed, failed_id, why, outcome, count, ...)
-- Refuses  invalid_input
register('ffsuper_expire_executions', function(keys, args)
  local due, reason = keys[1], text_argument(args[4], 'reason')
  local tag = tag_of(due)
  return sweep(due, args, function(execution_id)
    local core = exec_key(tag, execution_id, 'core')
    local record = redis.call('HMGET', core, 'lane_id', 'current_attempt_index')
    local lane_id, index = record[1] or 'default', record[2] or '0'
    local outcome = carry_out('ff_expire_execution', {
      core, attempt_key(tag, execution_id, index), stream_meta_key(tag, execution_id, index),
      exec_key(tag, execution_id, 'lease:current'), exec_key(tag, execution_id, 'lease:history'),
      'ff:idx:' .. tag .. ':lease_expiry', worker_leases_key(tag, ''),
      lane_index_key(tag, lane_id, 'active'), lane_index_key(tag, lane_id, 'terminal'),
      'ff:idx:' .. tag .. ':attempt_timeout', 'ff:idx:' .. tag .. ':execution_deadline',
      lane_index_key(tag, lane_id, 'suspended'), 'ff:idx:' .. tag .. ':suspension_timeout',
      exec_key(tag, execution_id, 'suspension:current'),
    }, { execution_id, reason })
    publish_timed_end(core, execution_id)
    return outcome
  end)
end)

-- ffsuper_expire_suspensions: let the suspensions time out whose time is over.
-- KEYS  1 suspension_timeout  zset  execution id -> timeout
-- ARGV  1 since_ms  a score, -inf for all
--       2 offset
--       3 limit
-- Replies  ok(now_ms, seen, still_due, failed, failed_id, why, outcome, count, ...)
-- Refuses  invalid_input
register('ffsuper_expire_suspensions', function(keys, args)
  local suspension_timeout = keys[1]
  local tag = tag_of(suspension_timeout)
  return sweep(suspension_timeout, args, function(execution_id)
    local core = exec_key(tag, execution_id, 'core')
    local record = redis.call('HMGET', core, 'current_waitpoint_id', 'current_attempt_index', 'lane_id')
    local waitpoint = 'ff:wp:' .. tag .. ':' .. (record[1] or '')
    local index, lane_id = record[2] or '0', record[3] or 'default'
    local outcome = carry_out('ff_expire_suspension', {
      core, exec_key(tag, execution_id, 'suspension:current'), waitpoint, waitpoint .. ':condition',
      attempt_key(tag, execution_id, index), stream_meta_key(tag, execution_id, index), suspension_timeout,
      lane_index_key(tag, lane_id, 'suspended'), lane_index_key(tag, lane_id, 'terminal'),
      lane_index_key(tag, lane_id, 'eligible'), lane_index_key(tag, lane_id, 'delayed'),
      exec_key(tag, execution_id, 'lease:history'),
    }, { execution_id })
    publish_timed_end(core, execution_id)
    return outcome
  end)
end)

-- ffsuper_close_waitpoints: close the pending waitpoints that no suspension has used in time.
-- KEYS  1 pending_waitpoint_expiry  zset  waitpoint id -> expiry
-- ARGV  1 since_ms  a score, -inf for all
--       2 offset
--       3 limit
-- Replies  ok(now_ms, seen, still_due, failed, failed_id, why, outcome, count, ...)
-- Refuses  invalid_input
register('ffsuper_close_waitpoints', function(keys, args)
  local pending_expiry = keys[1]
  local tag = tag_of(pending_expiry)
  return sweep(pending_expiry, args, function(waitpoint_id)
    local waitpoint = 'ff:wp:' .. tag .. ':' .. waitpoint_id
    local execution_id = redis.call('HGET', waitpoint, 'execution_id') or ''
    local core = exec_key(tag, execution_id, 'core')
    if redis.call('EXISTS', core) == 0 then
      redis.call('UNLINK', waitpoint, waitpoint .. ':signals', waitpoint .. ':condition')
      redis.call('ZREM', pending_expiry, waitpoint_id)
      return 'gone'
    end
    -- Retention finds it here. The protocol enters those only that a suspension has used.
    redis.call('SADD', exec_key(tag, execution_id, 'waitpoints'), waitpoint_id)
    return carry_out('ff_close_waitpoint', { core, waitpoint, pending_expiry }, { waitpoint_id, 'never_committed' })
  end)
end)
