-- Executions that are set aside because something they need is not there, and that come back.

local BLOCKED_AS = {
  waiting_for_budget = 'blocked_by_budget',
  waiting_for_quota = 'blocked_by_quota',
  waiting_for_capable_worker = 'blocked_by_route',
  paused_by_operator = 'blocked_by_operator',
  paused_by_policy = 'blocked_by_lane_state',
}

local UNBLOCKABLE = {
  blocked_by_budget = true,
  blocked_by_quota = true,
  blocked_by_route = true,
  blocked_by_operator = true,
}

-- ff_block_execution_for_admission: take a runnable execution out of the eligible ones.
-- KEYS  1 core      hash  the execution record
--       2 eligible  zset  the lane's claimable executions
--       3 blocked   zset  the lane's executions that wait for the same
-- ARGV  1 execution_id
--       2 blocking_reason  waiting_for_budget, waiting_for_quota, waiting_for_capable_worker, paused_by_operator
--                          or paused_by_policy
--       3 blocking_detail
--       4 now_ms           the caller's time
-- Replies  ok('blocked')
-- Refuses  invalid_input  execution_not_found  execution_not_active  execution_not_eligible
--          invalid_blocking_reason
register('ff_block_execution_for_admission', function(keys, args)
  local core, execution_id = keys[1], args[1]
  local record = require_execution(core, 'lifecycle_phase', 'terminal_outcome', 'current_lease_epoch', 'attempt_state')
  if record[1] == 'terminal' then
    refuse('execution_not_active', record[2] or '', record[3] or '')
  elseif record[1] ~= 'runnable' then
    refuse('execution_not_eligible')
  end
  local eligibility = BLOCKED_AS[args[2] or '']
  if not eligibility then
    refuse('invalid_blocking_reason')
  end
  text_argument(execution_id, 'execution_id')
  local now_ms = score_argument(args[4], 'now_ms')
  redis.call('HSET', core,
    'lifecycle_phase', 'runnable', 'ownership_state', 'unowned', 'eligibility_state', eligibility,
    'blocking_reason', args[2], 'blocking_detail', args[3] or '', 'terminal_outcome', 'none',
    'attempt_state', record[4] or 'pending_first_attempt', 'public_state', 'rate_limited',
    'last_transition_at', args[4], 'last_mutation_at', args[4])
  redis.call('ZREM', keys[2], execution_id)
  redis.call('ZADD', keys[3], now_ms, execution_id)
  return ok('blocked')
end)

-- ff_unblock_execution: put a blocked execution back among the eligible ones.
-- KEYS  1 core      hash  the execution record
--       2 blocked   zset  where it waits
--       3 eligible  zset  the lane's claimable executions
-- ARGV  1 execution_id
--       2 now_ms           the caller's time
--       3 expected_reason  refused when it waits for something else; empty for any
-- Replies  ok('unblocked')
-- Refuses  invalid_input  execution_not_found  execution_not_eligible
register('ff_unblock_execution', function(keys, args)
  local core, execution_id = keys[1], args[1]
  local record = require_execution(core, 'lifecycle_phase', 'eligibility_state', 'blocking_reason', 'attempt_state',
    'priority', 'created_at')
  if record[1] ~= 'runnable' or not UNBLOCKABLE[record[2] or ''] then
    refuse('execution_not_eligible')
  elseif is_set(args[3]) and args[3] ~= record[3] then
    refuse('execution_not_eligible')
  end
  text_argument(execution_id, 'execution_id')
  text_argument(args[2], 'now_ms')
  redis.call('HSET', core,
    'lifecycle_phase', 'runnable', 'ownership_state', 'unowned', 'eligibility_state', 'eligible_now',
    'blocking_reason', 'waiting_for_worker', 'blocking_detail', '', 'terminal_outcome', 'none',
    'attempt_state', record[4] or 'pending_first_attempt', 'public_state', 'waiting',
    'last_transition_at', args[2], 'last_mutation_at', args[2])
  redis.call('ZREM', keys[2], execution_id)
  redis.call('ZADD', keys[3], eligible_score(tonumber(record[5]) or 0, tonumber(record[6]) or 0), execution_id)
  return ok('unblocked')
end)
