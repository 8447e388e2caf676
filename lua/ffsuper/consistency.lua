-- Executions and the indexes that they belong into. A function of the protocol leaves both as they should be, so what does
-- not agree here is damage, and nobody would ever find the execution again: it is put back.

-- Where an execution should be, by its record, and with which score; nil where no index is certain.
local function expected_place(record)
  local phase, eligibility, ownership = record[1], record[2], record[3]
  local created_at, blocked = stored_number(record[5]), string.match(eligibility or '', '^blocked_by_(%a+)$')
  if phase == 'active' and ownership == 'leased' then
    return 'active', stored_number(record[8])
  elseif phase == 'runnable' and eligibility == 'eligible_now' then
    return 'eligible', eligible_score(stored_number(record[6]), created_at)
  elseif phase == 'runnable' and eligibility == 'not_eligible_until_time' then
    return 'delayed', stored_number(record[7])
  elseif phase == 'runnable' and blocked and blocked ~= 'lane' then
    return 'blocked:' .. blocked, created_at
  elseif phase == 'suspended' then
    return 'suspended', 9999999999999
  elseif phase == 'terminal' then
    return 'terminal', stored_number(record[9])
  end
end

-- Puts an execution back into an index that it is missing from; returns whether it was.
-- name: of the index
local function restore(index, name, score, execution_id)
  if name == 'eligible' then
    return add_eligible(index, 'NX', score, execution_id) == 1
  end
  return redis.call('ZADD', index, 'NX', score, execution_id) == 1
end

-- Looks at one execution; returns what was wrong, or 'consistent'.
local function reconcile(tag, lease_expiry, execution_id)
  local record = redis.call('HMGET', exec_key(tag, execution_id, 'core'), 'lifecycle_phase', 'eligibility_state',
    'ownership_state', 'lane_id', 'created_at', 'priority', 'delay_until', 'lease_expires_at', 'completed_at',
    'lease_revoked_at')
  local name, score = expected_place(record)
  if name and restore(lane_index_key(tag, record[4] or 'default', name), name, score, execution_id) then
    return 'restored:' .. name
  end
  if record[1] == 'active' then
    local at = record[3] == 'lease_revoked' and record[10] or record[8]
    if restore(lease_expiry, 'lease_expiry', stored_number(at), execution_id) then
      return record[3] == 'lease_revoked' and 'revoked' or 'restored:lease_expiry'
    end
  end
  return 'consistent'
end

-- ffsuper_reconcile: put a page of executions back into the indexes that they are missing from, and forget those that are
-- gone. A revoked execution leaves the index of lease expiries by the protocol; here it comes back, to be taken over.
-- KEYS  1 all_executions  set   of the partition
--       2 lease_expiry    zset  execution id -> lease expiry
-- ARGV  1 cursor  0 to begin with
--       2 count   about how many to look at
-- Replies  ok(cursor, failed, failed_id, why, outcome, count, ...), cursor 0 at the end: consistent, gone, revoked, or
--          restored:<index>
-- Refuses  invalid_input
register('ffsuper_reconcile', function(keys, args)
  local all_executions, lease_expiry = keys[1], keys[2]
  local tag = tag_of(all_executions)
  return scan(all_executions, args, function(execution_id)
    if redis.call('EXISTS', exec_key(tag, execution_id, 'core')) == 0 then
      redis.call('SREM', all_executions, execution_id)
      return 'gone'
    end
    return reconcile(tag, lease_expiry, execution_id)
  end)
end)
