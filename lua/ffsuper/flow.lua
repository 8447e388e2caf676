-- Flows go on: what ended is told to those that wait for it, and summaries are kept. A flow, its members and its edges
-- share a hash tag, so one call finds its way from one to the next.

-- How an execution has ended; nil while it has not, or when it is gone.
local function end_of(tag, execution_id)
  local record = redis.call('HMGET', exec_key(tag, execution_id, 'core'), 'lifecycle_phase', 'terminal_outcome')
  return record[1] == 'terminal' and is_set(record[2]) and record[2] ~= 'none' and record[2] or nil
end

-- Tells one execution how one of those that it waits for has ended.
-- Returns what became of the edge: satisfied, impossible, skipped (the child) or already_resolved
local function resolve(tag, edge_id, child_id, upstream_id, outcome, now)
  local core = exec_key(tag, child_id, 'core')
  local record = redis.call('HMGET', core, 'lane_id', 'current_attempt_index')
  local lane_id, index = record[1] or 'default', is_set(record[2]) and record[2] or '0'
  local reply = call_protocol('ff_resolve_dependency', {
    core, exec_key(tag, child_id, 'deps:meta'), exec_key(tag, child_id, 'deps:unresolved'),
    exec_key(tag, child_id, 'dep:' .. edge_id), lane_index_key(tag, lane_id, 'eligible'),
    lane_index_key(tag, lane_id, 'terminal'), lane_index_key(tag, lane_id, 'blocked:dependencies'),
    attempt_key(tag, child_id, index), stream_meta_key(tag, child_id, index), exec_key(tag, child_id, 'payload'),
    exec_key(tag, upstream_id, 'result'),
  }, { edge_id, outcome, now })
  return reply[4] == 'child_skipped' and 'skipped' or reply[3]
end

-- Does one thing and counts what becomes of it: a refusal counts as an outcome, an error as a failure of the execution.
-- work: of ffsuper_settle
-- act: returns an outcome, or nil for nothing to count
-- Returns the outcome; nil after an error
local function attempt(work, execution_id, act, ...)
  local done, outcome = pcall(act, ...)
  if not done and type(outcome) == 'table' and outcome.refusal then
    done, outcome = true, outcome.refusal[2]
  end
  if not done then
    work.failed, work.example, work.why = work.failed + 1, execution_id, error_text(outcome)
    return nil
  elseif outcome then
    work.outcomes[outcome] = (work.outcomes[outcome] or 0) + 1
  end
  return outcome
end

-- Returns a page of a set of edges, and puts what follows it on the stack of what is left.
local function take_page(work, edges, direction, execution_id, cursor)
  local page = redis.call('SSCAN', edges, cursor, 'COUNT', work.limit)
  if page[1] ~= '0' then
    table.insert(work.left, { direction, execution_id, page[1] })
  end
  work.done = work.done + #page[2]
  return page[2]
end

-- Resolves an edge. A child that is skipped has ended as well: what waits for it is next.
local function settle_edge(work, edge_id, child_id, upstream_id, outcome)
  if attempt(work, child_id, resolve, work.tag, edge_id, child_id, upstream_id, outcome, work.now) == 'skipped' then
    table.insert(work.left, { 'out', child_id, '0' })
  end
end

-- Tells those that wait for an execution how it has ended, a page of them. Unless it has, nothing is told: a message about
-- it may be late, or forged.
local function settle_outgoing(work, execution_id, cursor)
  local tag = work.tag
  local outcome = end_of(tag, execution_id)
  local flow_id = redis.call('HGET', exec_key(tag, execution_id, 'core'), 'flow_id')
  if not outcome or not is_set(flow_id) then
    return outcome and 'not_in_flow' or 'not_ended'
  end
  local flow = 'ff:flow:' .. tag .. ':' .. flow_id
  -- A flow at its end has left the index. One whose member was replayed, and ends anew, is looked at again.
  if cursor == '0' and redis.call('EXISTS', flow .. ':core') == 1 then
    redis.call('SADD', 'ff:idx:' .. tag .. ':flow_index', flow_id)
  end
  for _, edge_id in ipairs(take_page(work, flow .. ':out:' .. execution_id, 'out', execution_id, cursor)) do
    local child_id = redis.call('HGET', flow .. ':edge:' .. edge_id, 'downstream_execution_id')
    if is_set(child_id) then
      settle_edge(work, edge_id, child_id, execution_id, outcome)
    else
      work.outcomes.child_gone = (work.outcomes.child_gone or 0) + 1
    end
  end
  return nil
end

-- Settles one open edge of an execution, if the other end has ended. Nobody will ever tell how one that is gone has.
local function settle_open_edge(work, edge_id, child_id)
  local tag = work.tag
  local upstream_id = redis.call('HGET', exec_key(tag, child_id, 'dep:' .. edge_id), 'upstream_execution_id') or ''
  local outcome = end_of(tag, upstream_id)
  if outcome then
    settle_edge(work, edge_id, child_id, upstream_id, outcome)
  elseif redis.call('EXISTS', exec_key(tag, upstream_id, 'core')) == 0 then
    return 'upstream_gone'
  end
  return nil
end

-- Makes an execution claimable that has no open edge. The counter beside the set may be out of step with it.
local function release(tag, blocked, lane_id, execution_id, now)
  local meta, unresolved = exec_key(tag, execution_id, 'deps:meta'), exec_key(tag, execution_id, 'deps:unresolved')
  if stored_number(redis.call('HGET', meta, 'unsatisfied_required_count')) > 0 then
    redis.call('HSET', meta, 'unsatisfied_required_count', '0', 'last_dependency_update_at', now)
  end
  call_protocol('ff_promote_blocked_to_eligible',
    { exec_key(tag, execution_id, 'core'), blocked, lane_index_key(tag, lane_id, 'eligible'), meta, unresolved },
    { execution_id, now })
  return 'released'
end

-- Looks whether an execution still has to wait, at a page of its open edges.
local function settle_incoming(work, blocked, execution_id, cursor)
  local tag = work.tag
  local record = redis.call('HMGET', exec_key(tag, execution_id, 'core'), 'eligibility_state', 'lane_id')
  if record[1] ~= 'blocked_by_dependencies' then
    return redis.call('ZREM', blocked, execution_id) == 1 and 'cleaned' or nil
  end
  local unresolved = exec_key(tag, execution_id, 'deps:unresolved')
  if redis.call('SCARD', unresolved) == 0 then
    return release(tag, blocked, record[2] or 'default', execution_id, work.now)
  end
  for _, edge_id in ipairs(take_page(work, unresolved, 'in', execution_id, cursor)) do
    attempt(work, execution_id, settle_open_edge, work, edge_id, execution_id)
  end
  return nil
end

-- ffsuper_settle: resolve edges whose upstream has ended, and go on with those that wait for what is skipped for it. Stops
-- after some edges, and tells what is left, for the next call.
-- KEYS  1 blocked  zset  a lane's, by dependencies, where the steps "in" are from; for "out" any key of the partition
-- ARGV  1 limit  about how many edges and executions to look at
--       2 steps  N texts: direction, execution id, cursor (0 to begin with), and so on. "out" tells those that wait for the
--                execution how it has ended, "in" looks whether the execution itself still has to wait
-- Replies  ok(failed, failed_id, why, kinds, outcome, count, ..., direction, execution_id, cursor, ...): so many kinds of
--          outcomes, then the steps that are left. satisfied, impossible, skipped, already_resolved, child_gone, released,
--          cleaned (it is in the index without being blocked), upstream_gone, not_ended, not_in_flow, or a refusal's code
-- Refuses  invalid_input
register('ffsuper_settle', function(keys, args)
  local blocked, limit = keys[1], integer_argument(args[1], 'limit')
  local work = { tag = tag_of(blocked), now = tostring(server_time_ms()), limit = limit, done = 0, left = {},
    failed = 0, example = '', why = '', outcomes = {} }
  for first = 2, #args, 3 do
    table.insert(work.left, { args[first], args[first + 1], text_argument(args[first + 2], 'cursor') })
  end
  -- The last one first: what follows from a step is settled before the next, so that little is ever left.
  while #work.left > 0 and work.done < limit do
    local direction, execution_id, cursor = unpack(table.remove(work.left))
    work.done = work.done + 1
    if direction == 'out' then
      attempt(work, execution_id, settle_outgoing, work, execution_id, cursor)
    else
      attempt(work, execution_id, settle_incoming, work, blocked, execution_id, cursor)
    end
  end
  local counted = with_outcomes({}, work.outcomes)
  local reply = ok(work.failed, work.example, work.why, #counted / 2, unpack(counted))
  for _, step in ipairs(work.left) do
    for _, text in ipairs(step) do
      table.insert(reply, text)
    end
  end
  return reply
end)

-- ffsuper_count_members: count the states of a flow's members, a page of them. A flow without a record leaves the index.
-- KEYS  1 flow        hash  its record
--       2 members     set   execution ids
--       3 flow_index  set   flow ids
-- ARGV  1 flow_id
--       2 cursor   0 to begin with
--       3 count    about how many to look at
-- Replies  ok(cursor, total, state, count, ...), cursor 0 at the end: how many members there are altogether, and how many
--          of the page are in which public state, unknown for those that are gone. ok('0', 'gone') for such a flow
-- Refuses  invalid_input
register('ffsuper_count_members', function(keys, args)
  local flow, members, flow_index = keys[1], keys[2], keys[3]
  local flow_id, count = text_argument(args[1], 'flow_id'), integer_argument(args[3], 'count')
  local tag, states = tag_of(flow), {}
  if redis.call('EXISTS', flow) == 0 then
    redis.call('SREM', flow_index, flow_id)
    return ok('0', 'gone')
  end
  local page = redis.call('SSCAN', members, text_argument(args[2], 'cursor'), 'COUNT', count)
  for _, execution_id in ipairs(page[2]) do
    local state = redis.call('HGET', exec_key(tag, execution_id, 'core'), 'public_state') or 'unknown'
    states[state] = (states[state] or 0) + 1
  end
  return with_outcomes(ok(page[1], redis.call('SCARD', members)), states)
end)

-- ffsuper_write_summary: write what was counted of a flow. When all its members have ended it leaves the index.
-- KEYS  1 summary     hash
--       2 members     set  execution ids
--       3 flow_index  set  flow ids
-- ARGV  1 flow_id
--       2 total   members when they were counted
--       3 ended   1 when they all had
--       4 fields  N texts, name and value, and so on
-- Replies  ok('over')  ok('going_on') for a flow that stays in the index
-- Refuses  invalid_input
register('ffsuper_write_summary', function(keys, args)
  local summary, members, flow_index = keys[1], keys[2], keys[3]
  local flow_id, total = text_argument(args[1], 'flow_id'), integer_argument(args[2], 'total')
  redis.call('HSET', summary, 'total_members', args[2], 'last_summary_update_at', tostring(server_time_ms()),
    unpack(args, 4))
  if args[3] ~= '1' or redis.call('SCARD', members) ~= total then
    return ok('going_on')
  end
  redis.call('SREM', flow_index, flow_id)
  return ok('over')
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
    resolve(tag, edge_id, execution_id, upstream_id, outcome, now)
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
