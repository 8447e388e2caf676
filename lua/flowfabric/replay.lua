-- Replays: a terminal execution runs again, as a new attempt.

local DEFAULT_MAX_REPLAYS = 10

-- Opens the impossible edges of a skipped child again; returns how many of the edges passed are open now.
-- keys, args: of ff_replay_execution
local function reopen_edges(keys, args, now)
  local meta, unresolved, open = keys[6], keys[7], 0
  for position = 3, #args do
    local edge_id, dep = args[position], keys[position + 5]
    local state = redis.call('HGET', dep, 'state')
    if state == 'impossible' then
      redis.call('HSET', dep, 'state', 'unsatisfied', 'last_resolved_at', '')
      redis.call('SADD', unresolved, edge_id)
    end
    if state == 'impossible' or state == 'unsatisfied' then
      open = open + 1
    end
  end
  redis.call('HSET', meta,
    'unsatisfied_required_count', tostring(open),
    'impossible_required_count', '0',
    'last_dependency_update_at', now)
  return open
end

local function write_replayed(core, eligibility_state, blocking_reason, detail, public_state, replay_count, now)
  redis.call('HSET', core,
    'lifecycle_phase', 'runnable',
    'ownership_state', 'unowned',
    'eligibility_state', eligibility_state,
    'blocking_reason', blocking_reason,
    'blocking_detail', detail,
    'terminal_outcome', 'none',
    'attempt_state', 'pending_replay_attempt',
    'public_state', public_state,
    'pending_replay_attempt', '1',
    'replay_count', replay_count,
    'completed_at', '',
    'last_transition_at', now,
    'last_mutation_at', now)
end

-- ff_replay_execution: let a terminal execution run again. A skipped member of a flow waits for its dependencies again.
-- KEYS  1 core           hash    the execution record
--       2 terminal       zset    the lane's, as are 3 and 5
--       3 eligible       zset
--       4 lease_history  stream
--       5 blocked        zset    by dependencies; for a skipped member only, like all that follow
--       6 meta           hash    deps:meta
--       7 unresolved     set     edge ids
--       8 deps           hash    N of them: the edges' records with the execution
-- ARGV  1 execution_id
--       2 now_ms        not looked at
--       3 edge_ids      N texts, in the order of deps
-- Replies  ok(unsatisfied_count), '0' unless it was skipped
-- Refuses  execution_not_found  execution_not_terminal  max_replays_exhausted  invalid_input
register('ff_replay_execution', function(keys, args)
  local core, terminal, eligible, lease_history = keys[1], keys[2], keys[3], keys[4]
  local record = require_execution(core, 'lifecycle_phase', 'replay_count', 'terminal_outcome', 'flow_id', 'priority',
    'created_at')
  if record[1] ~= 'terminal' then
    refuse('execution_not_terminal')
  end
  local replays, created_at_ms = stored_number(record[2]), stored_number(record[6])
  if replays >= policy_number(core, 'max_replay_count', DEFAULT_MAX_REPLAYS) then
    refuse('max_replays_exhausted')
  end
  local is_skipped_member = record[3] == 'skipped' and is_set(record[4])
  local execution_id = text_argument(args[1], 'execution_id')
  require_keys(keys, is_skipped_member and math.max(7, #args + 5) or 4)

  local now, replay_count = tostring(server_time_ms()), tostring(replays + 1)
  local open = is_skipped_member and reopen_edges(keys, args, now) or 0
  redis.call('ZREM', terminal, execution_id)
  -- The reference blocks a skipped member even when no edge is open: then nothing releases it, ever.
  if is_skipped_member and (open > 0 or redis.call('SCARD', keys[7]) > 0) then
    write_replayed(core, 'blocked_by_dependencies', 'waiting_for_children', open .. ' dep(s) unsatisfied after replay',
      'waiting_children', replay_count, now)
    redis.call('ZADD', keys[5], created_at_ms, execution_id)
  else
    write_replayed(core, 'eligible_now', 'waiting_for_worker', '', 'waiting', replay_count, now)
    add_eligible(eligible, eligible_score(stored_number(record[5]), created_at_ms), execution_id)
  end
  append_history(lease_history,
    'event', 'replay_initiated',
    'replay_count', replay_count,
    'replay_type', is_skipped_member and 'skipped_flow_member' or 'normal',
    'ts', now)
  return ok(tostring(open))
end)
