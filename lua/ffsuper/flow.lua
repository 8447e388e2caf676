-- Flows go on: what ended is told to those that wait for it, and summaries are kept. A flow, its members and its edges
-- share a hash tag, so one call finds its way from one to the next.

-- Tells one execution how one of those that it waits for has ended. A child that is skipped for it has ended as well,
-- which is announced like any other end.
-- Returns what became of the edge: satisfied, impossible, skipped (the child), already_resolved, or a refusal's code
local function resolve(tag, flow_id, edge_id, child_id, upstream_id, outcome, now)
  local core = exec_key(tag, child_id, 'core')
  local record = redis.call('HMGET', core, 'lane_id', 'current_attempt_index')
  local lane_id, index = record[1] or 'default', record[2] or '0'
  local reply = call_protocol('ff_resolve_dependency', {
    core, exec_key(tag, child_id, 'deps:meta'), exec_key(tag, child_id, 'deps:unresolved'),
    exec_key(tag, child_id, 'dep:' .. edge_id), lane_index_key(tag, lane_id, 'eligible'),
    lane_index_key(tag, lane_id, 'terminal'), lane_index_key(tag, lane_id, 'blocked:dependencies'),
    attempt_key(tag, child_id, index), stream_meta_key(tag, child_id, index), exec_key(tag, child_id, 'payload'),
    exec_key(tag, upstream_id, 'result'),
  }, { edge_id, outcome, now })
  if reply[4] == 'child_skipped' then
    publish_completion(flow_id, child_id, 'skipped')
    return 'skipped'
  end
  return reply[3]
end

-- How an execution has ended; nil while it has not, or when it is gone.
local function end_of(tag, execution_id)
  local record = redis.call('HMGET', exec_key(tag, execution_id, 'core'), 'lifecycle_phase', 'terminal_outcome')
  return record[1] == 'terminal' and is_set(record[2]) and record[2] ~= 'none' and record[2] or nil
end

-- ffsuper_dispatch: tell those that wait for an execution how it has ended. Unless it has, nothing is told: a message about
-- it may be late, or forged.
-- KEYS  1 outgoing  set  of its flow: edges out of the execution; the flow enters its partition's index again
-- ARGV  1 execution_id
--       2 flow_id
--       3 cursor        0 to begin with
--       4 count         about how many edges to look at
-- Replies  ok(cursor, failed, failed_id, why, outcome, count, ...), cursor 0 at the end: satisfied, impossible, skipped,
--          already_resolved, child_gone, a refusal's code, or not_ended
-- Refuses  invalid_input
register('ffsuper_dispatch', function(keys, args)
  local outgoing = keys[1]
  local execution_id, flow_id = text_argument(args[1], 'execution_id'), text_argument(args[2], 'flow_id')
  local tag, now = tag_of(outgoing), tostring(server_time_ms())
  local outcome = end_of(tag, execution_id)
  if not outcome then
    return ok('0', 0, '', '', 'not_ended', 1)
  end
  -- A flow that was at its end has left the index; when a member was replayed and ends anew, its summary changes.
  if redis.call('EXISTS', 'ff:flow:' .. tag .. ':' .. flow_id .. ':core') == 1 then
    redis.call('SADD', 'ff:idx:' .. tag .. ':flow_index', flow_id)
  end
  return scan(outgoing, { args[3], args[4] }, function(edge_id)
    local child_id = redis.call('HGET', 'ff:flow:' .. tag .. ':' .. flow_id .. ':edge:' .. edge_id,
      'downstream_execution_id')
    if not is_set(child_id) then
      return 'child_gone'
    end
    return resolve(tag, flow_id, edge_id, child_id, execution_id, outcome, now)
  end)
end)

-- Edges of one execution that a call looks at; of more, some at random.
local MAX_EDGES = 20

-- Makes an execution claimable that waits, and has no open edge. The set of these is what counts: the counter beside it
-- is out of step after a replay whose caller did not know all of them.
local function release_waiting(tag, lane, execution_id, now)
  local meta = exec_key(tag, execution_id, 'deps:meta')
  if stored_number(redis.call('HGET', meta, 'unsatisfied_required_count')) > 0 then
    redis.call('HSET', meta, 'unsatisfied_required_count', '0', 'last_dependency_update_at', now)
  end
  call_protocol('ff_promote_blocked_to_eligible', {
    exec_key(tag, execution_id, 'core'), lane .. 'blocked:dependencies', lane .. 'eligible', meta,
    exec_key(tag, execution_id, 'deps:unresolved'),
  }, { execution_id, now })
  return 'released'
end

-- Resolves what can be resolved of an execution that waits; returns what became of it.
local function resolve_waiting(tag, lane, execution_id, now)
  local edges = redis.call('SRANDMEMBER', exec_key(tag, execution_id, 'deps:unresolved'), MAX_EDGES)
  if #edges == 0 then
    return release_waiting(tag, lane, execution_id, now)
  end
  local result = 'waits'
  for _, edge_id in ipairs(edges) do
    local dep = redis.call('HMGET', exec_key(tag, execution_id, 'dep:' .. edge_id), 'upstream_execution_id', 'flow_id')
    local upstream_id = dep[1] or ''
    local outcome = end_of(tag, upstream_id)
    if outcome then
      result = resolve(tag, dep[2], edge_id, execution_id, upstream_id, outcome, now)
      if result == 'skipped' then
        return result
      end
    elseif redis.call('EXISTS', exec_key(tag, upstream_id, 'core')) == 0 then
      result = 'upstream_gone'
    end
  end
  return result
end

-- ffsuper_resolve_blocked: look again at a page of executions that wait for others, for messages get lost.
-- KEYS  1 blocked  zset  the lane's, by dependencies
-- ARGV  1 since_ms  a score, -inf for all
--       2 offset
--       3 limit
-- Replies  ok(now_ms, seen, still_due, failed, failed_id, why, outcome, count, ...): waits, released, satisfied,
--          impossible, skipped, cleaned (it does not wait), upstream_gone (nobody will ever tell how that one has
--          ended), or a refusal's code
-- Refuses  invalid_input
register('ffsuper_resolve_blocked', function(keys, args)
  local blocked = keys[1]
  local tag, lane = tag_of(blocked), string.gsub(blocked, 'blocked:dependencies$', '')
  return sweep(blocked, args, function(execution_id, now)
    if redis.call('HGET', exec_key(tag, execution_id, 'core'), 'eligibility_state') ~= 'blocked_by_dependencies' then
      redis.call('ZREM', blocked, execution_id)
      return 'cleaned'
    end
    return resolve_waiting(tag, lane, execution_id, now)
  end)
end)

-- Members whose states are counted; of a larger flow, so many at random.
local MAX_MEMBERS = 500

-- Public state of an execution -> field of the summary; others count in none.
local COUNTED = {
  completed = 'members_completed',
  failed = 'members_failed',
  cancelled = 'members_cancelled',
  expired = 'members_expired',
  skipped = 'members_skipped',
  active = 'members_active',
  suspended = 'members_suspended',
  waiting = 'members_waiting',
  delayed = 'members_delayed',
  rate_limited = 'members_rate_limited',
  waiting_children = 'members_waiting_children',
}

-- The state of a flow by how many of its members are in which state.
local function flow_state(states, sampled)
  local function count(...)
    local sum = 0
    for _, state in ipairs({ ... }) do
      sum = sum + (states[state] or 0)
    end
    return sum
  end
  if count('completed', 'skipped', 'failed', 'cancelled', 'expired') == sampled then
    return count('failed', 'cancelled', 'expired') > 0 and 'failed' or 'completed', true
  elseif count('active') > 0 then
    return 'running', false
  end
  return count('suspended', 'delayed', 'rate_limited', 'waiting_children') > 0 and 'blocked' or 'open', false
end

-- ffsuper_summarize_flows: write the summaries of a page of flows. Those whose members have all ended leave the index.
-- KEYS  1 flow_index  set  flow ids
-- ARGV  1 cursor  0 to begin with
--       2 count   about how many to look at
-- Replies  ok(cursor, failed, failed_id, why, outcome, count, ...), cursor 0 at the end: gone, empty, or the flow's state
-- Refuses  invalid_input
register('ffsuper_summarize_flows', function(keys, args)
  local flow_index = keys[1]
  local tag, now = tag_of(flow_index), tostring(server_time_ms())
  return scan(flow_index, args, function(flow_id)
    local flow = 'ff:flow:' .. tag .. ':' .. flow_id
    local total = redis.call('SCARD', flow .. ':members')
    if redis.call('EXISTS', flow .. ':core') == 0 then
      redis.call('SREM', flow_index, flow_id)
      return 'gone'
    elseif total == 0 then
      return 'empty'
    end
    local members, states = redis.call('SRANDMEMBER', flow .. ':members', MAX_MEMBERS), {}
    for _, execution_id in ipairs(members) do
      local state = redis.call('HGET', exec_key(tag, execution_id, 'core'), 'public_state') or 'unknown'
      states[state] = (states[state] or 0) + 1
    end
    local state, has_ended = flow_state(states, #members)
    local summary = { 'total_members', total, 'sampled_members', #members, 'public_flow_state', state,
      'last_summary_update_at', now }
    for counted, field in pairs(COUNTED) do
      summary[#summary + 1] = field
      summary[#summary + 1] = states[counted] or 0
    end
    redis.call('HSET', flow .. ':summary', unpack(summary))
    if has_ended and #members == total then
      redis.call('SREM', flow_index, flow_id)
    end
    return state
  end)
end)

-- Refuses a flow that takes no members.
local function require_open(flow)
  local state = redis.call('HGET', flow, 'public_flow_state')
  if not state then
    refuse('flow_not_found')
  elseif state ~= 'open' then
    refuse('flow_already_terminal')
  end
end

local function edge_key(flow, edge_id)
  return string.gsub(flow, ':core$', '') .. ':edge:' .. edge_id
end

-- Lets a new member wait for another one, which may have ended already.
-- keys, args: of ffsuper_add_member
local function add_edge(tag, keys, args, edge_id, upstream_id, passes, now)
  local flow, members, core, eligible, execution_id, flow_id = keys[1], keys[2], keys[4], keys[8], args[1], args[14]
  local prefix, lane_id = string.gsub(flow, ':core$', ''), args[3]
  local reply = call_protocol('ff_stage_dependency_edge', {
    flow, members, edge_key(flow, edge_id), prefix .. ':out:' .. upstream_id, prefix .. ':in:' .. execution_id,
    prefix .. ':grant:' .. edge_id,
  }, {
    flow_id, edge_id, upstream_id, execution_id, 'success_only', passes, redis.call('HGET', flow, 'graph_revision'), now,
  })
  call_protocol('ff_apply_dependency_to_child', {
    core, exec_key(tag, execution_id, 'deps:meta'), exec_key(tag, execution_id, 'deps:unresolved'),
    exec_key(tag, execution_id, 'dep:' .. edge_id), eligible, lane_index_key(tag, lane_id, 'blocked:dependencies'),
    exec_key(tag, execution_id, 'deps:all_edges'),
  }, { flow_id, edge_id, upstream_id, reply[4], 'success_only', passes, now })
  local outcome = end_of(tag, upstream_id)
  if outcome then
    resolve(tag, flow_id, edge_id, execution_id, upstream_id, outcome, now)
  end
end

-- ffsuper_add_member: create an execution as a member of a flow, with the edges that lead to it, at once: it cannot run
-- before it knows what it waits for, and a caller that dies leaves no half of it. A repeat is harmless.
-- KEYS  1 flow                hash    its record
--       2 members             set     execution ids
--       3 flow_index          set     flow ids
--       4 core                hash    the execution record
--       5 payload             string
--       6 policy              string
--       7 tags                hash
--       8 eligible            zset    the lane's
--       9 execution_deadline  zset    execution id -> deadline
--      10 all_executions      set     execution ids
-- ARGV  1 execution_id
--       2 namespace
--       3 lane_id
--       4 execution_kind
--       5 priority
--       6 creator_identity
--       7 policy
--       8 payload
--       9 delay_until       must be empty
--      10 dedup_ttl_ms      not looked at
--      11 tags
--      12 execution_deadline
--      13 partition_id
--      14 flow_id
--      15 edges             N triples: edge id, the member that it comes from, what is passed on (empty for nothing)
-- Replies  ok(execution_id)  already_satisfied(execution_id)
-- Refuses  invalid_input  flow_not_found  flow_already_terminal  execution_already_exists  execution_not_in_flow
--          dependency_already_exists
register('ffsuper_add_member', function(keys, args)
  local flow, members, flow_index, core, eligible = keys[1], keys[2], keys[3], keys[4], keys[8]
  local execution_id, flow_id = args[1], text_argument(args[14], 'flow_id')
  local tag, now = tag_of(core), tostring(server_time_ms())
  local existing = redis.call('HMGET', core, 'lifecycle_phase', 'flow_id')
  if existing[1] and existing[2] == flow_id then
    return already_satisfied(execution_id)
  elseif existing[1] then
    refuse('execution_already_exists', execution_id)
  end
  require_open(flow)
  if args[9] ~= '' then
    refuse('invalid_input', 'delay_until must be empty: a member waits for others, not for a time')
  end
  for position = 15, #args, 3 do
    if redis.call('SISMEMBER', members, text_argument(args[position + 1], 'upstream')) == 0 then
      refuse('execution_not_in_flow', args[position + 1])
    elseif redis.call('EXISTS', edge_key(flow, args[position])) == 1 then
      refuse('dependency_already_exists', args[position])
    end
    text_argument(args[position + 2], 'data_passing_ref')
  end

  call_protocol('ff_create_execution',
    { core, keys[5], keys[6], keys[7], eligible, 'ff:noop:' .. tag, keys[9], keys[10] },
    { unpack(args, 1, 13) })
  call_protocol('ff_add_execution_to_flow', { flow, members, flow_index, core }, { flow_id, execution_id, now })
  for position = 15, #args, 3 do
    add_edge(tag, keys, args, args[position], args[position + 1], args[position + 2], now)
  end
  return ok(execution_id)
end)
