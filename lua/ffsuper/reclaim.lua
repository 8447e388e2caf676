-- What a worker that takes executions over needs: which there are, and having those of a dead worker at once.

-- ffsuper_reclaimable: mark the leases that ran out, and tell which of the executions a worker can take over.
-- KEYS  1 lease_expiry  zset  execution id -> lease expiry
-- ARGV  1 since_ms      a score, -inf for all
--       2 offset
--       3 limit         of the entries that are looked at
--       4 capabilities  the worker's, comma-separated; may be empty
--       5 count         how many lanes follow
--       6 lanes         N texts; then a count and so many execution kinds, none for any kind
-- Replies  ok(now_ms, seen, still_due, failed, failed_id, why, then of each: execution_id, execution_kind,
--          attempt_index, lane_id)
-- Refuses  invalid_input
register('ffsuper_reclaimable', function(keys, args)
  local lease_expiry, capabilities = keys[1], text_argument(args[4], 'capabilities')
  local tag = tag_of(lease_expiry)
  local lanes, at = set_argument(args, 5)
  local kinds = set_argument(args, at)
  local found = {}
  local reply = walk(lease_expiry, args, function(execution_id)
    local core = exec_key(tag, execution_id, 'core')
    carry_out('ff_mark_lease_expired_if_due', {
      core, exec_key(tag, execution_id, 'lease:current'), lease_expiry, exec_key(tag, execution_id, 'lease:history'),
    }, { execution_id })
    local record = redis.call('HMGET', core, 'ownership_state', 'execution_kind', 'current_attempt_index', 'lane_id',
      'required_capabilities', 'current_worker_instance_id')
    local is_open = record[1] == 'lease_expired_reclaimable' or record[1] == 'lease_revoked'
    local kind, lane_id = record[2] or '', record[4] or 'default'
    if is_open and record[6] then
      redis.call('SREM', worker_leases_key(tag, record[6]), execution_id) -- nothing else does, once another has it
    end
    if is_open and (not kinds or kinds[kind]) and lanes and lanes[lane_id]
      and missing_capabilities(record[5] or '', capabilities) == '' then
      for _, part in ipairs({ execution_id, kind, record[3] or '0', lane_id }) do
        found[#found + 1] = part
      end
    end
    return 'seen'
  end)
  for _, part in ipairs(found) do
    reply[#reply + 1] = part
  end
  return reply
end)

-- ffsuper_end_leases: let the leases of a worker instance end now. That its process is dead, and its children are, is the
-- caller's word.
-- KEYS  1 worker_leases  set   executions of the instance
--       2 lease_expiry   zset  execution id -> lease expiry
-- ARGV  1 instance_id
--       2 limit        executions in one call
-- Replies  ok(ended, left), left being what the set still holds
-- Refuses  invalid_input
register('ffsuper_end_leases', function(keys, args)
  local worker_leases, lease_expiry = keys[1], keys[2]
  local instance_id, limit = text_argument(args[1], 'instance_id'), integer_argument(args[2], 'limit')
  local tag, now_ms, ended = tag_of(lease_expiry), server_time_ms(), 0
  for _, execution_id in ipairs(redis.call('SRANDMEMBER', worker_leases, limit)) do
    local core = exec_key(tag, execution_id, 'core')
    local record = redis.call('HMGET', core, 'lifecycle_phase', 'ownership_state', 'current_worker_instance_id')
    if record[1] == 'active' and record[2] == 'leased' and record[3] == instance_id then
      redis.call('HSET', core, 'lease_expires_at', tostring(now_ms))
      mark_lease_expired(core, exec_key(tag, execution_id, 'lease:history'), now_ms)
      redis.call('ZADD', lease_expiry, now_ms, execution_id)
      ended = ended + 1
    end
    redis.call('SREM', worker_leases, execution_id)
  end
  return ok(ended, redis.call('SCARD', worker_leases))
end)
