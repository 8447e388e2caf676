-- Flows: containers of executions, and the graph of edges between these. What an edge does to its child: dependency.lua.

-- What ends a flow. Only the first is ever written to its record, but all three are looked for.
local TERMINAL_FLOW_STATES = { cancelled = true, completed = true, failed = true }

-- How many executions may lie downstream of a new edge: the search for cycles ends there.
local MAX_DOWNSTREAM = 1000

-- Reads a flow that shall change: its public_flow_state, and from the 2nd on the fields named here.
local function require_open_flow(flow, ...)
  local record = redis.call('HMGET', flow, 'public_flow_state', ...)
  if not record[1] and redis.call('EXISTS', flow) == 0 then
    refuse('flow_not_found')
  elseif TERMINAL_FLOW_STATES[record[1]] then
    refuse('flow_already_terminal')
  end
  return record
end

-- Whether upstream is downstream of downstream already. More executions than can be searched count as a cycle, too.
local function closes_cycle(flow, upstream_id, downstream_id)
  local prefix = string.gsub(flow, ':core$', '')
  local found, is_found = { downstream_id }, { [downstream_id] = true }
  for _, execution_id in ipairs(found) do -- which grows meanwhile
    for _, edge_id in ipairs(redis.call('SMEMBERS', prefix .. ':out:' .. execution_id)) do
      local next_id = redis.call('HGET', prefix .. ':edge:' .. edge_id, 'downstream_execution_id')
      if is_set(next_id) and not is_found[next_id] then
        found[#found + 1], is_found[next_id] = next_id, true
        if next_id == upstream_id or #found > MAX_DOWNSTREAM then
          return true
        end
      end
    end
  end
  return false
end

-- ff_create_flow: create a flow without members, and enter it in the index, again if need be.
-- KEYS  1 flow        hash  its record
--       2 members     set   not touched
--       3 flow_index  set   flow ids
-- ARGV  1 flow_id
--       2 flow_kind
--       3 namespace
--       4 now_ms     not looked at
-- Replies  ok(flow_id)  already_satisfied(flow_id)
-- Refuses  invalid_input
register('ff_create_flow', function(keys, args)
  local flow, flow_index = keys[1], keys[3]
  local flow_id = text_argument(args[1], 'flow_id')
  require_keys(keys, 3)
  if redis.call('EXISTS', flow) == 1 then
    redis.call('SADD', flow_index, flow_id)
    return already_satisfied(flow_id)
  end
  local flow_kind = text_argument(args[2], 'flow_kind')
  local namespace = text_argument(args[3], 'namespace')

  local now = tostring(server_time_ms())
  redis.call('SADD', flow_index, flow_id)
  redis.call('HSET', flow,
    'flow_id', flow_id,
    'flow_kind', flow_kind,
    'namespace', namespace,
    'graph_revision', '0',
    'node_count', '0',
    'edge_count', '0',
    'public_flow_state', 'open',
    'created_at', now,
    'last_mutation_at', now)
  return ok(flow_id)
end)

-- ff_add_execution_to_flow: make an execution, whatever its state, a member of the flow.
-- KEYS  1 flow        hash  its record
--       2 members     set   execution ids
--       3 flow_index  set   flow ids; gets this one again, even with the last refusal
--       4 core        hash  the execution record
-- ARGV  1 flow_id
--       2 execution_id
--       3 now_ms        not looked at
-- Replies  ok(execution_id, node_count)  already_satisfied(execution_id, node_count)
-- Refuses  flow_not_found  flow_already_terminal  execution_not_found  invalid_input
--          already_member_of_different_flow:<flow_id>
register('ff_add_execution_to_flow', function(keys, args)
  local flow, members, flow_index, core = keys[1], keys[2], keys[3], keys[4]
  local flow_id, execution_id = args[1], args[2]
  local record = require_open_flow(flow, 'node_count', 'graph_revision')
  require_keys(keys, 4) -- here, because the stock client passes three and knows the answers above
  local other_flow_id = require_execution(core, 'lifecycle_phase', 'flow_id')[2]
  text_argument(flow_id, 'flow_id')
  text_argument(execution_id, 'execution_id')

  redis.call('SADD', flow_index, flow_id)
  if is_set(other_flow_id) and other_flow_id ~= flow_id then
    refuse('already_member_of_different_flow:' .. other_flow_id)
  end
  redis.call('HSET', core, 'flow_id', flow_id)
  if redis.call('SADD', members, execution_id) == 0 then
    return already_satisfied(execution_id, record[2] or '0')
  end
  local node_count = tostring(stored_number(record[2]) + 1)
  redis.call('HSET', flow,
    'node_count', node_count,
    'graph_revision', tostring(stored_number(record[3]) + 1),
    'last_mutation_at', tostring(server_time_ms()))
  return ok(execution_id, node_count)
end)

-- ff_cancel_flow: end the flow, and tell its members, which the caller has to cancel.
-- KEYS  1 flow        hash  its record
--       2 members     set   execution ids
--       3 flow_index  set   not touched
-- ARGV  1 flow_id              not looked at
--       2 reason
--       3 cancellation_policy  stored only
--       4 now_ms               not looked at
-- Replies  ok(cancellation_policy, member, ...), in any order
-- Refuses  flow_not_found  flow_already_terminal  invalid_input
register('ff_cancel_flow', function(keys, args)
  local flow, members, reason, policy = keys[1], keys[2], args[2], args[3]
  require_open_flow(flow)
  text_argument(reason, 'reason')
  local reply = ok(text_argument(policy, 'cancellation_policy'))
  for _, execution_id in ipairs(redis.call('SMEMBERS', members)) do
    reply[#reply + 1] = execution_id
  end

  local now = tostring(server_time_ms())
  redis.call('HSET', flow,
    'public_flow_state', 'cancelled',
    'cancelled_at', now,
    'cancel_reason', reason,
    'cancellation_policy', policy,
    'last_mutation_at', now)
  return reply
end)

-- ff_stage_dependency_edge: add an edge between two members to the graph. The child does not know of it yet.
-- KEYS  1 flow      hash  its record; what its name begins with is that of the edges and their sets, which are found here
--       2 members   set   execution ids
--       3 edge      hash  the new one
--       4 outgoing  set   edges out of the upstream execution
--       5 incoming  set   edges into the downstream execution
--       6 grant     hash  not touched
-- ARGV  1 flow_id
--       2 edge_id
--       3 upstream_id
--       4 downstream_id
--       5 dependency_kind    stored only
--       6 data_passing_ref   empty for none
--       7 expected_revision  the flow's graph_revision, compared as text
--       8 now_ms             stored as it is
-- Replies  ok(edge_id, graph_revision)
-- Refuses  self_referencing_edge  flow_not_found  flow_already_terminal  stale_graph_revision  execution_not_in_flow
--          cycle_detected (or too many executions downstream)  dependency_already_exists  invalid_input
register('ff_stage_dependency_edge', function(keys, args)
  local flow, members, edge, outgoing, incoming = keys[1], keys[2], keys[3], keys[4], keys[5]
  local flow_id, edge_id, upstream_id, downstream_id = args[1], args[2], args[3], args[4]
  if upstream_id == downstream_id then
    refuse('self_referencing_edge')
  end
  local record = require_open_flow(flow, 'graph_revision', 'edge_count')
  if (record[2] or '0') ~= args[7] then
    refuse('stale_graph_revision')
  end
  local is_member = redis.call('SMISMEMBER', members, upstream_id, downstream_id)
  if is_member[1] == 0 or is_member[2] == 0 then
    refuse('execution_not_in_flow')
  elseif closes_cycle(flow, upstream_id, downstream_id) then
    refuse('cycle_detected')
  elseif redis.call('EXISTS', edge) == 1 then
    refuse('dependency_already_exists')
  end
  local now = text_argument(args[8], 'now_ms')
  require_keys(keys, 5)

  redis.call('HSET', edge,
    'edge_id', edge_id,
    'flow_id', flow_id,
    'upstream_execution_id', upstream_id,
    'downstream_execution_id', downstream_id,
    'dependency_kind', args[5],
    'satisfaction_condition', 'all_required',
    'data_passing_ref', args[6],
    'edge_state', 'pending',
    'created_at', now,
    'created_by', 'engine')
  redis.call('SADD', outgoing, edge_id)
  redis.call('SADD', incoming, edge_id)
  local revision = tostring(stored_number(record[2]) + 1)
  redis.call('HSET', flow,
    'graph_revision', revision,
    'edge_count', tostring(stored_number(record[3]) + 1),
    'last_mutation_at', now)
  return ok(edge_id, revision)
end)
