-- Dependencies: what the edges of a flow's graph do to the execution that they lead to, its child. Each edge has a
-- record with the child; it is unsatisfied until the upstream execution has ended, then satisfied or impossible for good.
-- deps:unresolved holds the edges that are unsatisfied, deps:meta counts these and the impossible ones. One impossible
-- edge is enough to skip the child. Times are the caller's, stored as they are.

-- Makes a child without open dependencies claimable.
-- attempt_state, priority, created_at: the record's, as read
local function release_child(core, blocked, eligible, execution_id, attempt_state, priority, created_at, now)
  local is_new = not is_set(attempt_state) or attempt_state == 'none'
  redis.call('HSET', core,
    'eligibility_state', 'eligible_now',
    'blocking_reason', 'waiting_for_worker',
    'blocking_detail', '',
    'attempt_state', is_new and 'pending_first_attempt' or attempt_state,
    'public_state', 'waiting',
    'last_transition_at', now,
    'last_mutation_at', now)
  redis.call('ZREM', blocked, execution_id)
  add_eligible(eligible, eligible_score(stored_number(priority), stored_number(created_at)), execution_id)
end

-- ff_apply_dependency_to_child: give the child an edge to wait for. A runnable child is blocked, any other one keeps its
-- state.
-- KEYS  1 core        hash  the child's record
--       2 meta        hash  the child's deps:meta
--       3 unresolved  set   edge ids
--       4 dep         hash  the edge's record with the child
--       5 eligible    zset  the lane's
--       6 blocked     zset  the lane's, by dependencies
--       7 all_edges   set   edge ids
-- ARGV  1 flow_id
--       2 edge_id
--       3 upstream_id
--       4 graph_revision    stored only
--       5 dependency_kind   stored only
--       6 data_passing_ref  empty for none
--       7 now_ms
-- Replies  ok(unsatisfied_count)  ok('already_applied')
-- Refuses  execution_not_found  execution_already_in_flow  invalid_input
register('ff_apply_dependency_to_child', function(keys, args)
  local core, meta, unresolved, dep = keys[1], keys[2], keys[3], keys[4]
  local eligible, blocked, all_edges = keys[5], keys[6], keys[7]
  local flow_id, edge_id, upstream_id, graph_revision, now = args[1], args[2], args[3], args[4], args[7]
  local record = require_execution(core, 'lifecycle_phase', 'flow_id', 'terminal_outcome', 'execution_id',
    'ownership_state', 'attempt_state', 'created_at')
  if is_set(record[2]) and record[2] ~= flow_id then
    refuse('execution_already_in_flow')
  elseif redis.call('EXISTS', dep) == 1 then
    return ok('already_applied')
  end
  text_argument(now, 'now_ms')
  require_keys(keys, 7)

  local execution_id = record[4] or ''
  redis.call('HSET', dep,
    'edge_id', edge_id,
    'flow_id', flow_id,
    'upstream_execution_id', upstream_id,
    'downstream_execution_id', execution_id,
    'dependency_kind', args[5],
    'state', 'unsatisfied',
    'data_passing_ref', args[6],
    'last_resolved_at', '')
  redis.call('SADD', unresolved, edge_id)
  redis.call('SADD', all_edges, edge_id)
  local open = tostring(stored_number(redis.call('HGET', meta, 'unsatisfied_required_count')) + 1)
  redis.call('HSET', meta,
    'unsatisfied_required_count', open,
    'flow_id', flow_id,
    'last_flow_graph_revision', graph_revision,
    'last_dependency_update_at', now)
  if record[1] == 'runnable' and record[3] == 'none' then
    redis.call('HSET', core,
      'ownership_state', record[5] or 'unowned',
      'eligibility_state', 'blocked_by_dependencies',
      'blocking_reason', 'waiting_for_children',
      'blocking_detail', open .. ' dep(s) unresolved incl ' .. edge_id,
      'attempt_state', record[6] or 'pending_first_attempt',
      'public_state', 'waiting_children',
      'last_transition_at', now,
      'last_mutation_at', now)
    redis.call('ZREM', eligible, execution_id)
    redis.call('ZADD', blocked, stored_number(record[7]), execution_id)
  end
  return ok(open)
end)

-- Records the verdict on an edge.
-- keys, args: of ff_resolve_dependency
-- counts: of the child, as read: its unsatisfied edges, its impossible ones
local function resolve_edge(keys, args, state, counts, now)
  local meta, unresolved, dep = keys[2], keys[3], keys[4]
  redis.call('HSET', dep, 'state', state, 'last_resolved_at', now)
  redis.call('SREM', unresolved, args[1])
  if state == 'impossible' then
    redis.call('HSET', meta, 'impossible_required_count', tostring(stored_number(counts[2]) + 1))
  end
  redis.call('HSET', meta,
    'unsatisfied_required_count', tostring(stored_number(counts[1]) - 1),
    'last_dependency_update_at', now)
end

-- Satisfies an edge: passes the upstream's result on if the edge says so, and releases a child that waits for no other.
local function satisfy_edge(keys, args, counts, data_passing_ref, now)
  local core, unresolved, eligible, blocked = keys[1], keys[3], keys[5], keys[7]
  local payload, upstream_result = keys[10], keys[11]
  local record = redis.call('HMGET', core, 'terminal_outcome', 'lifecycle_phase', 'ownership_state',
    'eligibility_state', 'execution_id', 'attempt_state', 'priority', 'created_at')
  local passes_data = is_set(data_passing_ref) and record[1] == 'none'
  local waits = record[1] == 'none' and record[2] == 'runnable' and record[3] == 'unowned'
    and record[4] == 'blocked_by_dependencies'
  -- The counter can be out of step with the set: a replay sets it to the edges that its caller knew.
  local is_released = waits and (stored_number(counts[1]) == 1
    or redis.call('SCARD', unresolved) == redis.call('SISMEMBER', unresolved, args[1]))
  require_keys(keys, passes_data and 11 or is_released and 7 or 4)

  resolve_edge(keys, args, 'satisfied', counts, now)
  local is_injected = passes_data and redis.call('COPY', upstream_result, payload, 'REPLACE') == 1
  if is_released then
    release_child(core, blocked, eligible, record[5] or '', record[6], record[7], record[8], now)
  end
  return ok('satisfied', is_injected and 'data_injected' or '')
end

-- States of an execution with an attempt that has begun, and has not ended.
local OPEN_ATTEMPTS = { running_attempt = true, attempt_interrupted = true }

-- Returns the state of the attempts of a child that is skipped, and ends the one that has begun.
local function end_skipped_attempt(attempt, stream_meta, attempt_state, now)
  if not OPEN_ATTEMPTS[attempt_state] then
    return attempt_state == '' and '' or 'none'
  end
  redis.call('HSET', attempt,
    'attempt_state', 'ended_cancelled',
    'ended_at', now,
    'failure_reason', 'dependency_impossible')
  close_stream(stream_meta, 'dependency_impossible', now)
  return 'attempt_terminal'
end

-- Makes an edge impossible, and skips the child unless it has ended: from any phase, under its worker if it has one.
local function fail_edge(keys, args, counts, now)
  local core, eligible, terminal, blocked = keys[1], keys[5], keys[6], keys[7]
  local attempt, stream_meta = keys[8], keys[9]
  local record = redis.call('HMGET', core, 'terminal_outcome', 'attempt_state', 'execution_id')
  local execution_id, is_skipped = record[3] or '', record[1] == 'none'
  local now_ms = is_skipped and score_argument(now, 'now_ms')
  require_keys(keys, not is_skipped and 4 or OPEN_ATTEMPTS[record[2]] and 9 or 7)

  resolve_edge(keys, args, 'impossible', counts, now)
  if not is_skipped then
    return ok('impossible', '')
  end
  local attempt_state = end_skipped_attempt(attempt, stream_meta, record[2], now)
  redis.call('HSET', core,
    'lifecycle_phase', 'terminal',
    'ownership_state', 'unowned',
    'eligibility_state', 'not_applicable',
    'blocking_reason', 'none',
    'blocking_detail', '',
    'terminal_outcome', 'skipped',
    'attempt_state', attempt_state,
    'public_state', 'skipped',
    'completed_at', now,
    'last_transition_at', now,
    'last_mutation_at', now)
  redis.call('ZREM', blocked, execution_id)
  -- A child that failed or was replayed with open edges is here. The reference leaves it, at the head of its lane in the
  -- end, where its workers look at one entry only.
  redis.call('ZREM', eligible, execution_id)
  redis.call('ZADD', terminal, now_ms, execution_id)
  return ok('impossible', 'child_skipped')
end

-- ff_resolve_dependency: tell the child how the upstream execution of an edge has ended.
-- KEYS  1 core             hash    the child's record
--       2 meta             hash    the child's deps:meta
--       3 unresolved       set     edge ids
--       4 dep              hash    the edge's record with the child
--       5 eligible         zset    the lane's; needed, like all that follow, where it is written to
--       6 terminal         zset    the lane's
--       7 blocked          zset    the lane's, by dependencies
--       8 attempt          hash    the child's current one
--       9 stream_meta      hash    the current attempt's; closed if it exists
--      10 payload          string  the child's
--      11 upstream_result  string  of any type
-- ARGV  1 edge_id
--       2 outcome  success, or anything else to make the edge impossible
--       3 now_ms   a number when the child is skipped
-- Replies  ok('satisfied', 'data_injected' or '')  ok('impossible', 'child_skipped' or '')  ok('already_resolved')
-- Refuses  invalid_dependency  invalid_input
register('ff_resolve_dependency', function(keys, args)
  local dependency = redis.call('HMGET', keys[4], 'state', 'data_passing_ref')
  local state = dependency[1]
  if not state and redis.call('EXISTS', keys[4]) == 0 then
    refuse('invalid_dependency')
  elseif state == 'satisfied' or state == 'impossible' then
    return ok('already_resolved')
  end
  local now = text_argument(args[3], 'now_ms')
  local counts = redis.call('HMGET', keys[2], 'unsatisfied_required_count', 'impossible_required_count')
  if args[2] == 'success' then
    return satisfy_edge(keys, args, counts, dependency[2], now)
  end
  return fail_edge(keys, args, counts, now)
end)

-- ff_evaluate_flow_eligibility: tell whether dependencies keep an execution from being claimed.
-- KEYS  1 core  hash  the execution record
--       2 meta  hash  its deps:meta
-- Replies  ok(status): not_found, not_runnable, owned, terminal, impossible, blocked_by_dependencies or eligible
register('ff_evaluate_flow_eligibility', function(keys)
  local core, meta = keys[1], keys[2]
  local record = redis.call('HMGET', core, 'lifecycle_phase', 'ownership_state', 'terminal_outcome')
  if record[1] ~= 'runnable' then
    local is_found = record[1] or redis.call('EXISTS', core) == 1
    return ok(is_found and 'not_runnable' or 'not_found')
  elseif record[2] ~= 'unowned' then
    return ok('owned')
  elseif record[3] ~= 'none' then
    return ok('terminal')
  end
  local counts = redis.call('HMGET', meta, 'impossible_required_count', 'unsatisfied_required_count')
  if stored_number(counts[1]) > 0 then
    return ok('impossible')
  end
  return ok(stored_number(counts[2]) > 0 and 'blocked_by_dependencies' or 'eligible')
end)

-- ff_promote_blocked_to_eligible: release an execution that waits for dependencies and has none open.
-- KEYS  1 core        hash  the execution record
--       2 blocked     zset  the lane's, by dependencies
--       3 eligible    zset  the lane's
--       4 meta        hash  its deps:meta
--       5 unresolved  set   edge ids
-- ARGV  1 execution_id
--       2 now_ms
-- Replies  ok()
-- Refuses  execution_not_found  not_runnable  not_blocked_by_deps  terminal  deps_not_satisfied  invalid_input
register('ff_promote_blocked_to_eligible', function(keys, args)
  local core, blocked, eligible, meta, unresolved = keys[1], keys[2], keys[3], keys[4], keys[5]
  local execution_id = args[1]
  local record = require_execution(core, 'lifecycle_phase', 'eligibility_state', 'terminal_outcome', 'attempt_state',
    'priority', 'created_at')
  if record[1] ~= 'runnable' then
    refuse('not_runnable')
  elseif record[2] ~= 'blocked_by_dependencies' then
    refuse('not_blocked_by_deps')
  elseif record[3] ~= 'none' then
    refuse('terminal')
  end
  local open = stored_number(redis.call('HGET', meta, 'unsatisfied_required_count'))
  local unresolved_count = redis.call('SCARD', unresolved)
  if open > 0 or unresolved_count > 0 then
    refuse('deps_not_satisfied', tostring(open), tostring(unresolved_count))
  end
  local now = text_argument(args[2], 'now_ms')

  release_child(core, blocked, eligible, execution_id, record[4], record[5], record[6], now)
  return ok()
end)
