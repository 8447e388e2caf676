-- What a scheduler needs of a lane on a partition: the executions that a worker might have next.

-- Highest priorities of which the oldest executions are looked at; entries looked at in one call.
local MAX_PRIORITIES = 14
local MAX_ENTRIES = 500
local PAGE = 50
local PRIORITY_STEP = 1000000000000

local CANDIDATE_FIELDS = { 'lifecycle_phase', 'eligibility_state', 'priority', 'created_at', 'required_capabilities',
  'namespace', 'budget_ids', 'quota_policy_id', 'last_transition_at' }

-- An execution that has come back is not blocked again for so long: a worker that can run it shall have time to ask,
-- though one that cannot asks first.
local TIME_TO_ASK_MS = 5000

-- Whether an execution has become claimable again, after something else, a moment ago.
local function has_come_back(created_at, last_transition_at, now_ms)
  return last_transition_at ~= created_at and now_ms - stored_number(last_transition_at) < TIME_TO_ASK_MS
end

-- Looks at one entry; returns its record when the worker might have it, or nil and whether it is granted to somebody, or is
-- no execution id: such a one stays and is passed by. An entry without an execution is removed.
local function candidate(lane, tag, execution_id, capabilities, now)
  local core = exec_key(tag, execution_id, 'core')
  local record = redis.call('HMGET', core, unpack(CANDIDATE_FIELDS))
  if record[1] ~= 'runnable' or record[2] ~= 'eligible_now' then
    redis.call('ZREM', lane.eligible, execution_id)
    return nil
  elseif redis.call('EXISTS', exec_key(tag, execution_id, 'claim_grant')) == 1 or not is_execution_id(tag, execution_id) then
    return nil, true
  end
  local missing = missing_capabilities(record[5] or '', capabilities)
  if missing ~= '' and has_come_back(record[4], record[9], tonumber(now)) then
    return nil
  end
  local is_blocked = missing ~= '' and block_route(core, lane.eligible, lane.blocked, execution_id, now)
  return not is_blocked and record or nil
end

-- Appends executions of each namespace that have one priority to the reply, oldest first.
-- lane: its two indexes, and how many of its entries may still be looked at; wanted: see ffsuper_pick
-- lowest, highest: the scores of that priority
local function pick_oldest(lane, reply, wanted, lowest, highest, now)
  local eligible, tag, found, offset, depth = lane.eligible, tag_of(lane.eligible), {}, 0, wanted.depth
  repeat
    local size = math.min(PAGE, lane.left)
    local page = redis.call('ZRANGEBYSCORE', eligible, lowest, highest, 'LIMIT', offset, size)
    for _, execution_id in ipairs(page) do
      local done, record, is_granted = pcall(candidate, lane, tag, execution_id, wanted.capabilities, now)
      lane.left = lane.left - 1
      depth = done and is_granted and depth or depth - 1
      if done and record or redis.call('ZSCORE', eligible, execution_id) then
        offset = offset + 1 -- those that were blocked or removed are here no more
      end
      local namespace = done and record and (record[6] or '')
      if namespace and (found[namespace] or 0) < wanted.count then
        found[namespace] = (found[namespace] or 0) + 1
        for _, part in ipairs({ execution_id, record[3] or '0', record[4] or '0', namespace, record[7] or '',
          record[8] or '' }) do
          reply[#reply + 1] = part
        end
      end
      if depth <= 0 then
        return
      end
    end
  until #page < size or lane.left <= 0
end

-- A score is the time of creation, less so much for the priority; returns the priority of what is not older than now.
local function priority_of(score, now_ms)
  return math.floor((now_ms - score) / PRIORITY_STEP)
end

-- Picks from the priority of the entry at a position, unless it is one of those that were looked at: scores up to seen.
local function pick_around(lane, reply, wanted, position, seen, now_ms)
  local entry = redis.call('ZRANGE', lane.eligible, position, position, 'WITHSCORES')
  local priority = entry[2] and priority_of(tonumber(entry[2]), now_ms)
  local highest = priority and now_ms - priority * PRIORITY_STEP
  if highest and highest > seen then
    pick_oldest(lane, reply, wanted, string.format('%.0f', -priority * PRIORITY_STEP),
      string.format('%.0f', highest), tostring(now_ms))
  end
end

-- ffsuper_pick: tell the oldest executions of priorities and namespaces that a worker might have: of the highest priorities,
-- and so that what has waited for long is seen, of the lowest and of one by chance. Those that it lacks capabilities for are
-- blocked, those that are gone are removed from the index.
-- KEYS  1 eligible       zset  the lane's
--       2 blocked_route  zset  the lane's
-- ARGV  1 capabilities  the worker's, comma-separated; may be empty
--       2 count         executions of each priority and namespace
--       3 depth         entries of each priority that are looked at, those that are granted to somebody left aside: a
--                       namespace with so many older ones hides others
-- Replies  ok(now_ms, then of each: execution_id, priority, created_at, namespace, budget_ids, quota_policy_id)
-- Refuses  invalid_input
register('ffsuper_pick', function(keys, args)
  local wanted = {
    capabilities = text_argument(args[1], 'capabilities'),
    count = integer_argument(args[2], 'count'),
    depth = integer_argument(args[3], 'depth'),
  }
  local lane = { eligible = keys[1], blocked = keys[2], left = MAX_ENTRIES }
  local now_ms, seen, bound = server_time_ms(), -math.huge, '-inf'
  local reply = ok(tostring(now_ms))
  for _ = 1, MAX_PRIORITIES do
    local first = redis.call('ZRANGEBYSCORE', lane.eligible, bound, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if not first[1] or lane.left <= 0 then
      return reply
    end
    seen = now_ms - priority_of(tonumber(first[2]), now_ms) * PRIORITY_STEP
    local highest = string.format('%.0f', seen)
    pick_oldest(lane, reply, wanted, bound, highest, tostring(now_ms))
    bound = '(' .. highest
  end
  local last = redis.call('ZCARD', lane.eligible) - 1
  for _, position in ipairs({ last, now_ms % (last + 1) }) do
    if lane.left > 0 then
      pick_around(lane, reply, wanted, position, seen, now_ms)
    end
  end
  return reply
end)
