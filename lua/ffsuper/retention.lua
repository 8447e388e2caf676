-- Deleting executions that ended long enough ago, with everything that belongs to them.

local DEFAULT_RETENTION_MS = 86400000
-- Names of keys that one call unlinks, about: UNLINK leaves the work of freeing large ones to another thread.
local MAX_KEYS = 2000
-- Edges of a flow that are looked at before a member is deleted; of more, some at random.
local MAX_EDGES = 1000

-- How long an ended execution is kept: what its policy says, if that is a whole number from 0 on.
local function retention_of(tag, execution_id)
  local is_readable, policy = pcall(cjson.decode, redis.call('GET', exec_key(tag, execution_id, 'policy')) or '')
  local stream_policy = is_readable and type(policy) == 'table' and policy.stream_policy
  local retention_ms = type(stream_policy) == 'table' and stream_policy.retention_ttl_ms
  if type(retention_ms) ~= 'number' or retention_ms < 0 or retention_ms ~= math.floor(retention_ms) then
    return DEFAULT_RETENTION_MS
  end
  return retention_ms
end

-- Whether an execution of its flow still waits to be told how this one has ended.
local function is_awaited(tag, flow_id, execution_id)
  if not is_set(flow_id) then
    return false
  end
  local flow = 'ff:flow:' .. tag .. ':' .. flow_id
  for _, edge_id in ipairs(redis.call('SRANDMEMBER', flow .. ':out:' .. execution_id, MAX_EDGES)) do
    local child_id = redis.call('HGET', flow .. ':edge:' .. edge_id, 'downstream_execution_id')
    if is_set(child_id) and redis.call('HGET', exec_key(tag, child_id, 'dep:' .. edge_id), 'state') == 'unsatisfied'
      and redis.call('HGET', exec_key(tag, child_id, 'core'), 'terminal_outcome') == 'none' then
      return true
    end
  end
  return false
end

-- Deletes keys while there is room for them in a call.
local function unlink(room, ...)
  room.keys = room.keys - select('#', ...)
  redis.call('UNLINK', ...)
end

-- Takes the members of a set or of a zset away, page by page, and calls delete(member) for each.
-- Returns whether there are none left.
local function delete_members(room, key, pop, width, delete)
  while room.keys > 0 do
    local members = redis.call(pop, key, 100)
    for position = 1, #members, width do
      delete(members[position])
    end
    if #members == 0 then
      return true
    end
  end
  return false
end

-- Deletes a flow's edges at an execution, which nobody finds or needs once it is gone: what waited for it was told. The flow
-- keeps it as a member. Returns whether all of them are gone.
local function delete_edges(room, tag, flow_id, execution_id)
  local flow = 'ff:flow:' .. tag .. ':' .. flow_id
  local function delete_edge(edge_id)
    unlink(room, flow .. ':edge:' .. edge_id)
  end
  return delete_members(room, flow .. ':out:' .. execution_id, 'SPOP', 1, delete_edge)
    and delete_members(room, flow .. ':in:' .. execution_id, 'SPOP', 1, delete_edge)
end

-- Deletes what belongs to an execution besides its record; returns whether all of it is gone.
-- flow_id: of its flow, if it has one
local function delete_parts(room, tag, execution_id, attempts, flow_id)
  local function part(name)
    return exec_key(tag, execution_id, name)
  end
  local function delete_signal(signal_id)
    local signal = 'ff:signal:' .. tag .. ':' .. signal_id
    unlink(room, signal, signal .. ':payload')
  end
  local function delete_waitpoint(waitpoint_id)
    local waitpoint = 'ff:wp:' .. tag .. ':' .. waitpoint_id
    unlink(room, waitpoint, waitpoint .. ':signals', waitpoint .. ':condition')
  end
  local function delete_edge(edge_id)
    unlink(room, part('dep:' .. edge_id))
  end
  local function delete_attempt(index)
    local attempt, stream = attempt_key(tag, execution_id, index), 'ff:stream:' .. tag .. ':' .. execution_id .. ':' .. index
    unlink(room, attempt, attempt .. ':usage', attempt .. ':policy', stream, stream .. ':meta')
  end
  local is_done = delete_members(room, part('signals'), 'ZPOPMIN', 2, delete_signal)
    and delete_members(room, part('waitpoints'), 'SPOP', 1, delete_waitpoint)
    and delete_members(room, part('deps:all_edges'), 'SPOP', 1, delete_edge)
    and delete_members(room, part('attempts'), 'ZPOPMIN', 2, delete_attempt)
    and (not is_set(flow_id) or delete_edges(room, tag, flow_id, execution_id))
  if is_done then
    for index = 0, math.min(stored_number(attempts), MAX_KEYS) - 1 do
      delete_attempt(string.format('%.0f', index))
    end
    unlink(room, part('payload'), part('result'), part('tags'), part('lease:current'), part('lease:history'),
      part('claim_grant'), part('suspension:current'), part('deps:meta'), part('deps:unresolved'))
  end
  return is_done
end

-- ffsuper_trim: delete executions that have ended and were kept for as long as their policy says.
-- KEYS  1 terminal        zset  the lane's: execution id -> its end
--       2 all_executions  set   of the partition
-- ARGV  1 since_ms  a score, -inf for all
--       2 offset
--       3 limit
--       4 age_ms    so long ago they ended at least
-- Replies  ok(now_ms, seen, still_due, failed, failed_id, why, outcome, count, ...): trimmed, cleaned (it is in the index
--          without having ended), partly (there is more of it than one call deletes: call again), awaited (by its flow),
--          or kept:<retention in ms>
-- Refuses  invalid_input
register('ffsuper_trim', function(keys, args)
  local terminal, all_executions = keys[1], keys[2]
  local age_ms, tag, room = integer_argument(args[4], 'age_ms'), tag_of(terminal), { keys = MAX_KEYS }
  return sweep(terminal, args, function(execution_id, now)
    local core = exec_key(tag, execution_id, 'core')
    local record = redis.call('HMGET', core, 'completed_at', 'lifecycle_phase', 'flow_id', 'total_attempt_count')
    local completed_at = stored_number(record[1])
    if completed_at == 0 or record[2] ~= 'terminal' then
      redis.call('ZREM', terminal, execution_id)
      return 'cleaned'
    end
    local retention_ms = retention_of(tag, execution_id)
    if tonumber(now) < completed_at + retention_ms then
      return string.format('kept:%.0f', retention_ms)
    elseif is_awaited(tag, record[3], execution_id) then
      return 'awaited'
    elseif room.keys <= 0 or not delete_parts(room, tag, execution_id, record[4], record[3]) then
      return 'partly'
    end
    redis.call('UNLINK', core, exec_key(tag, execution_id, 'policy'))
    redis.call('ZREM', terminal, execution_id)
    redis.call('SREM', all_executions, execution_id)
    return 'trimmed'
  end, age_ms)
end)
