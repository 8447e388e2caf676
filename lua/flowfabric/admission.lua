-- Admission: executions that are set aside because they may not run yet, and that come back. Times are the caller's.

-- Blocking reason -> eligibility state.
local ADMISSION_BLOCKS = {
  waiting_for_budget = 'blocked_by_budget',
  waiting_for_quota = 'blocked_by_quota',
  waiting_for_capable_worker = 'blocked_by_route',
  paused_by_operator = 'blocked_by_operator',
  paused_by_policy = 'blocked_by_lane_state',
}

-- All of them but the lane's state: that block ends otherwise.
local UNBLOCKABLE_STATES = {
  blocked_by_budget = true,
  blocked_by_quota = true,
  blocked_by_route = true,
  blocked_by_operator = true,
}

-- attempt_state: as read
local function write_admission(core, eligibility_state, reason, detail, public_state, attempt_state, now)
  redis.call('HSET', core,
    'lifecycle_phase', 'runnable',
    'ownership_state', 'unowned',
    'eligibility_state', eligibility_state,
    'blocking_reason', reason,
    'blocking_detail', detail,
    'terminal_outcome', 'none',
    'attempt_state', attempt_state or 'pending_first_attempt',
    'public_state', public_state,
    'last_transition_at', now,
    'last_mutation_at', now)
end

-- ff_block_execution_for_admission: set a runnable execution aside. Only the eligible index loses it, if it is elsewhere.
-- KEYS  1 core      hash  the execution record
--       2 eligible  zset  the lane's
--       3 blocked   zset  the lane's, of the caller's choice
-- ARGV  1 execution_id
--       2 blocking_reason  waiting_for_budget, waiting_for_quota, waiting_for_capable_worker, paused_by_operator or
--                          paused_by_policy
--       3 blocking_detail
--       4 now_ms           number, stored as it is
-- Replies  ok('blocked')
-- Refuses  execution_not_found  execution_not_active  execution_not_eligible  invalid_blocking_reason  invalid_input
register('ff_block_execution_for_admission', function(keys, args)
  local core, eligible, blocked = keys[1], keys[2], keys[3]
  local execution_id, reason, now = args[1], args[2] or '', args[4]
  local record = require_execution(core, 'lifecycle_phase', 'terminal_outcome', 'current_lease_epoch', 'attempt_state')
  if record[1] == 'terminal' then
    refuse('execution_not_active', record[2] or '', record[3] or '')
  elseif record[1] ~= 'runnable' then
    refuse('execution_not_eligible')
  elseif not ADMISSION_BLOCKS[reason] then
    refuse('invalid_blocking_reason')
  end
  local now_ms = score_argument(now, 'now_ms')
  require_keys(keys, 3)

  write_admission(core, ADMISSION_BLOCKS[reason], reason, args[3], 'rate_limited', record[4], now)
  redis.call('ZREM', eligible, execution_id)
  redis.call('ZADD', blocked, now_ms, execution_id)
  return ok('blocked')
end)

-- ff_unblock_execution: put an execution that was set aside back at its old place among the eligible ones.
-- KEYS  1 core      hash  the execution record
--       2 blocked   zset  the lane's, where the execution is
--       3 eligible  zset  the lane's
-- ARGV  1 execution_id
--       2 now_ms           stored as it is, and not looked at
--       3 expected_reason  empty or absent for any
-- Replies  ok('unblocked')
-- Refuses  execution_not_found  execution_not_eligible  invalid_input
register('ff_unblock_execution', function(keys, args)
  local core, blocked, eligible = keys[1], keys[2], keys[3]
  local execution_id, expected_reason = args[1], args[3]
  local record = require_execution(core, 'lifecycle_phase', 'eligibility_state', 'blocking_reason', 'attempt_state',
    'priority', 'created_at')
  if record[1] ~= 'runnable' or not UNBLOCKABLE_STATES[record[2]] then
    refuse('execution_not_eligible')
  elseif is_set(expected_reason) and expected_reason ~= record[3] then
    refuse('execution_not_eligible')
  end
  local now = text_argument(args[2], 'now_ms')
  require_keys(keys, 3)

  write_admission(core, 'eligible_now', 'waiting_for_worker', '', 'waiting', record[4], now)
  redis.call('ZREM', blocked, execution_id)
  add_eligible(eligible, eligible_score(stored_number(record[5]), stored_number(record[6])), execution_id)
  return ok('unblocked')
end)
