-- Priority of eligible executions.

-- ff_change_priority: change the priority of an eligible execution, and so its place in the lane.
-- KEYS  1 core      hash  the execution record
--       2 eligible  zset  the lane's claimable executions
-- ARGV  1 execution_id
--       2 new_priority  number, clamped to 0 to 9000
-- Replies  ok(old_priority, new_priority)
-- Refuses  invalid_input  execution_not_found  execution_not_eligible
register('ff_change_priority', function(keys, args)
  local core, execution_id = keys[1], args[1]
  local priority = number_argument(args[2], 'new_priority')
  local record = require_execution(core, 'lifecycle_phase', 'eligibility_state', 'priority', 'created_at')
  if record[1] ~= 'runnable' or record[2] ~= 'eligible_now' then
    refuse('execution_not_eligible')
  end
  text_argument(execution_id, 'execution_id')
  score_argument(args[2], 'new_priority')
  if priority < 0 then
    priority = 0
  elseif priority > 9000 then
    priority = 9000
  end
  local priority_text = tostring(priority)
  redis.call('HSET', core, 'priority', priority_text, 'last_mutation_at', server_time_ms())
  redis.call('ZADD', keys[2], eligible_score(priority, tonumber(record[4]) or 0), execution_id)
  return ok(tostring(tonumber(record[3] or 0)), priority_text)
end)
