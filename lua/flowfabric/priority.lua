-- Priority: who is claimed first.

-- ff_change_priority: change the priority of an eligible execution, and so its place in the lane.
-- KEYS  1 core      hash  the execution record
--       2 eligible  zset  the lane's
-- ARGV  1 execution_id
--       2 new_priority  number, brought into 0 to 9000
-- Replies  ok(old_priority, new_priority); a damaged old one is 'nil'
-- Refuses  invalid_input  execution_not_found  execution_not_eligible
register('ff_change_priority', function(keys, args)
  local core, eligible, execution_id = keys[1], keys[2], args[1]
  local priority = clamped_priority(number_argument(args[2], 'new_priority'))
  local record = require_execution(core, 'lifecycle_phase', 'eligibility_state', 'priority', 'created_at')
  if record[1] ~= 'runnable' or record[2] ~= 'eligible_now' then
    refuse('execution_not_eligible')
  end
  score_argument(args[2], 'new_priority')
  require_keys(keys, 2)

  local new_priority = tostring(priority)
  redis.call('HSET', core, 'priority', new_priority, 'last_mutation_at', tostring(server_time_ms()))
  add_eligible(eligible, eligible_score(priority, stored_number(record[4])), execution_id)
  return ok(tostring(tonumber(record[3] or 0)), new_priority)
end)
