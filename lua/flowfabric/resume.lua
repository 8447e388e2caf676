-- Resuming: end a suspension by an operator's word. By a signal: signal.lua; by time: suspension_timeout.lua.

-- ff_resume_execution: end a suspension without a signal, by an operator's word.
-- KEYS  1 core                hash    the execution record
--       2 suspension          hash
--       3 waitpoint           hash    the current one
--       4 wp_signals          stream  not touched
--       5 suspension_timeout  zset    execution id -> timeout
--       6 eligible            zset    the lane's
--       7 delayed             zset    the lane's
--       8 suspended           zset    the lane's
-- ARGV  1 execution_id
--       2 trigger_type     not read
--       3 resume_delay_ms  number; absent for 0
-- Replies  ok('waiting')  ok('delayed')
-- Refuses  execution_not_found  execution_not_suspended  invalid_input
register('ff_resume_execution', function(keys, args)
  local core, suspension, waitpoint, suspension_timeout = keys[1], keys[2], keys[3], keys[5]
  local indexes = { eligible = keys[6], delayed = keys[7], suspended = keys[8] }
  local record = require_execution(core, 'lifecycle_phase', 'priority', 'created_at')
  if record[1] ~= 'suspended' then
    refuse('execution_not_suspended')
  end
  local current = redis.call('HMGET', suspension, 'suspension_id', 'closed_at')
  if not is_suspension_open(current[1], current[2]) then
    refuse('execution_not_suspended')
  end
  local execution_id = text_argument(args[1], 'execution_id')
  local delay_ms = number_argument(args[3] or 0, 'resume_delay_ms')
  require_keys(keys, 8)

  local now_ms = server_time_ms()
  local delay_detail = 'resume delay ' .. delay_ms .. 'ms'
  resume_suspended(core, execution_id, indexes, record[2], record[3], delay_ms, delay_detail, now_ms)
  redis.call('HSET', waitpoint,
    'state', 'closed', 'satisfied_at', now_ms, 'closed_at', now_ms, 'close_reason', 'resumed')
  redis.call('HSET', suspension, 'satisfied_at', now_ms, 'closed_at', now_ms, 'close_reason', 'resumed')
  redis.call('ZREM', suspension_timeout, execution_id)
  return ok(delay_ms > 0 and 'delayed' or 'waiting')
end)
