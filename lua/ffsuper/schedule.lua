-- What a scheduler needs of a lane on a partition: the executions that a worker might have next.

-- Priorities of which the oldest executions are looked at, highest first; entries looked at in one call.
local MAX_PRIORITIES = 16
local MAX_ENTRIES = 500
local PAGE = 50
local PRIORITY_STEP = 1000000000000

local CANDIDATE_FIELDS = { 'lifecycle_phase', 'eligibility_state', 'priority', 'created_at', 'required_capabilities',
  'namespace', 'budget_ids', 'quota_policy_id', 'last_transition_at' }

-- An execution that has come back is not blocked again for so long: a worker that can run it shall have time to ask,
-- though one that cannot asks first.
local TIME_TO_ASK_MS = 5000

-- Sets an execution aside that this worker may not run; returns whether it did.
local function block_for_capabilities(lane, core, execution_id, missing, now)
  return missing ~= '' and pcall(call_protocol, 'ff_block_execution_for_admission', { core, lane.eligible, lane.blocked }, {
    execution_id, 'waiting_for_capable_worker', 'no connected worker satisfies required_capabilities', now,
  })
end

-- Whether an execution has become claimable again, after something else, a moment ago.
local function has_come_back(created_at, last_transition_at, now_ms)
  return last_transition_at ~= created_at and now_ms - stored_number(last_transition_at) < TIME_TO_ASK_MS
end

-- Looks at one entry; returns its record when the worker might have it. An entry without an execution is removed, one
-- that is granted to somebody stays and is passed by.
local function candidate(lane, tag, execution_id, capabilities, now)
  local core = exec_key(tag, execution_id, 'core')
  local record = redis.call('HMGET', core, unpack(CANDIDATE_FIELDS))
  if record[1] ~= 'runnable' or record[2] ~= 'eligible_now' then
    redis.call('ZREM', lane.eligible, execution_id)
    return nil
  elseif redis.call('EXISTS', exec_key(tag, execution_id, 'claim_grant')) == 1 then
    return nil
  end
  local missing = missing_capabilities(record[5] or '', capabilities)
  if missing ~= '' and has_come_back(record[4], record[9], tonumber(now)) then
    return nil
  end
  return not block_for_capabilities(lane, core, execution_id, missing, now) and record or nil
end

-- Appends up to count executions of each namespace that have one priority to the reply, oldest first.
-- lane: its two indexes; bound, upper: the scores of that priority; seen, limit: entries looked at so far, and at most
-- Returns how many entries were looked at by then.
local function pick_oldest(lane, reply, capabilities, count, bound, upper, seen, limit, now)
  local eligible, tag, found, offset = lane.eligible, tag_of(lane.eligible), {}, 0
  repeat
    local wanted = math.min(PAGE, limit - seen)
    local page = redis.call('ZRANGEBYSCORE', eligible, bound, upper, 'LIMIT', offset, wanted)
    for _, execution_id in ipairs(page) do
      local done, record = pcall(candidate, lane, tag, execution_id, capabilities, now)
      seen = seen + 1
      if done and record or redis.call('ZSCORE', eligible, execution_id) then
        offset = offset + 1 -- those that were blocked or removed are here no more
      end
      local namespace = done and record and (record[6] or '')
      if namespace and (found[namespace] or 0) < count then
        found[namespace] = (found[namespace] or 0) + 1
        for _, part in ipairs({ execution_id, record[3] or '0', record[4] or '0', namespace, record[7] or '',
          record[8] or '' }) do
          reply[#reply + 1] = part
        end
      end
    end
  until #page < wanted or seen >= limit
  return seen
end

-- ffsuper_pick: tell the oldest executions of each priority and namespace that a worker might have. Those that it lacks capabilities for
-- are blocked, those that are gone are removed from the index.
-- KEYS  1 eligible       zset  the lane's
--       2 blocked_route  zset  the lane's
-- ARGV  1 capabilities  the worker's, comma-separated; may be empty
--       2 count         executions of each priority and namespace
--       3 depth         entries of each priority that are looked at: a namespace with so many older ones hides others
-- Replies  ok(now_ms, then of each: execution_id, priority, created_at, namespace, budget_ids, quota_policy_id), highest
--          priority first
-- Refuses  invalid_input
register('ffsuper_pick', function(keys, args)
  local eligible, blocked_route, capabilities = keys[1], keys[2], text_argument(args[1], 'capabilities')
  local count, depth = integer_argument(args[2], 'count'), integer_argument(args[3], 'depth')
  local now_ms, bound, seen = server_time_ms(), '-inf', 0
  local now = tostring(now_ms)
  local lane, reply = { eligible = eligible, blocked = blocked_route }, ok(now)
  for _ = 1, MAX_PRIORITIES do
    local first = redis.call('ZRANGEBYSCORE', eligible, bound, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if not first[1] or seen >= MAX_ENTRIES then
      break
    end
    -- A score is the time of creation, less so much for the priority: what is older than now has this one.
    local upper = now_ms - math.floor((now_ms - tonumber(first[2])) / PRIORITY_STEP) * PRIORITY_STEP
    local limit = math.min(seen + depth, MAX_ENTRIES)
    seen = pick_oldest(lane, reply, capabilities, count, bound, string.format('%.0f', upper), seen, limit, now)
    bound = string.format('(%.0f', upper)
  end
  return reply
end)
