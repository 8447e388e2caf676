-- Creation of executions.

-- HSET takes its fields as arguments, of which Lua can pass only some thousands at a time.
local TAGS_PER_CALL = 1000

local function is_present(value)
  return value ~= nil and value ~= cjson.null
end

-- The required capabilities of a policy, sorted and joined; empty when there are none.
local function required_capabilities(policy_json)
  if not is_set(policy_json) or policy_json == '{}' then
    return ''
  end
  local decoded, policy = pcall(cjson.decode, policy_json)
  if not decoded then
    refuse('invalid_policy_json', 'malformed')
  end
  if type(policy) ~= 'table' or not is_present(policy.routing_requirements) then
    return ''
  end
  if type(policy.routing_requirements) ~= 'table' then
    refuse('invalid_policy_json', 'routing_requirements:not_object')
  end
  local required = policy.routing_requirements.required_capabilities
  if not is_present(required) then
    return ''
  end
  if type(required) ~= 'table' then
    refuse('invalid_capabilities', 'required:not_array')
  end
  for _, token in ipairs(required) do
    if type(token) ~= 'string' then
      refuse('invalid_capabilities', 'required:non_string_token')
    elseif token == '' then
      refuse('invalid_capabilities', 'required:empty_token')
    elseif string.find(token, ',', 1, true) then
      refuse('invalid_capabilities', 'required:comma_in_token')
    elseif string.find(token, '[%z\1-\32\127]') then
      refuse('invalid_capabilities', 'required:control_or_whitespace')
    end
  end
  if #required > MAX_CAPABILITY_TOKENS then
    refuse('invalid_capabilities', 'required:too_many_tokens')
  end
  table.sort(required)
  local list = table.concat(required, ',')
  if #list > MAX_CAPABILITY_BYTES then
    refuse('invalid_capabilities', 'required:too_many_bytes')
  end
  return list
end

-- Stores the tags; what is no JSON object with members is ignored.
local function write_tags(tags, tags_json)
  if not is_set(tags_json) or tags_json == '{}' then
    return
  end
  local decoded, found = pcall(cjson.decode, tags_json)
  if not decoded or type(found) ~= 'table' then
    return
  end
  local pairs_left = {}
  for name, value in pairs(found) do
    pairs_left[#pairs_left + 1] = tostring(name)
    pairs_left[#pairs_left + 1] = type(value) == 'table' and cjson.encode(value) or tostring(value)
    if #pairs_left == 2 * TAGS_PER_CALL then
      redis.call('HSET', tags, unpack(pairs_left))
      pairs_left = {}
    end
  end
  if #pairs_left > 0 then
    redis.call('HSET', tags, unpack(pairs_left))
  end
end

local function write_new_core(core, args, priority, delayed, required, now_ms)
  redis.call('HSET', core,
    'execution_id', args[1], 'namespace', args[2], 'lane_id', args[3], 'execution_kind', args[4],
    'partition_id', args[13], 'priority', priority, 'creator_identity', args[6],
    'lifecycle_phase', 'runnable', 'ownership_state', 'unowned',
    'eligibility_state', delayed and 'not_eligible_until_time' or 'eligible_now',
    'blocking_reason', delayed and 'waiting_for_delay' or 'waiting_for_worker',
    'blocking_detail', delayed and ('delayed until ' .. args[9]) or '',
    'terminal_outcome', 'none', 'attempt_state', 'pending_first_attempt',
    'public_state', delayed and 'delayed' or 'waiting',
    'total_attempt_count', '0', 'current_attempt_index', '', 'current_attempt_id', '',
    'current_lease_id', '', 'current_lease_epoch', '0', 'current_worker_id', '',
    'current_worker_instance_id', '', 'current_lane', args[3],
    'retry_count', '0', 'replay_count', '0', 'lease_reclaim_count', '0',
    'created_at', now_ms, 'started_at', '', 'completed_at', '',
    'last_transition_at', now_ms, 'last_mutation_at', now_ms,
    'lease_acquired_at', '', 'lease_expires_at', '', 'lease_last_renewed_at', '', 'lease_renewal_deadline', '',
    'lease_expired_at', '', 'lease_revoked_at', '', 'lease_revoke_reason', '',
    'delay_until', delayed and args[9] or '', 'current_suspension_id', '', 'current_waitpoint_id', '',
    'pending_retry_reason', '', 'pending_replay_reason', '', 'pending_replay_requested_by', '',
    'pending_previous_attempt_index', '',
    'progress_pct', '', 'progress_message', '', 'progress_updated_at', '', 'flow_id', '')
  if required ~= '' then
    redis.call('HSET', core, 'required_capabilities', required)
  end
end

local CREATE_ARGUMENTS = { 'execution_id', 'namespace', 'lane_id', 'execution_kind', 'priority', 'creator_identity',
  'policy', 'payload', 'delay_until', 'dedup_ttl_ms', 'tags', 'execution_deadline', 'partition_id' }

-- ff_create_execution: create an execution, once per id and idempotency key.
-- KEYS  1 core                hash    the execution record
--       2 payload             string  the handler's input
--       3 policy              string  the policy as submitted
--       4 tags                hash    the submitter's labels
--       5 lane_index          zset    the lane's delayed index when a delay is given, else its eligible one
--       6 idempotency         string  the id created under the key, or ff:noop:… without one
--       7 execution_deadline  zset    execution id -> deadline
--       8 all_executions      set     every execution of the partition
-- ARGV  1 execution_id
--       2 namespace
--       3 lane_id
--       4 execution_kind
--       5 priority            number, clamped to 0 to 9000
--       6 creator_identity
--       7 policy              JSON, or empty
--       8 payload             bytes, or empty
--       9 delay_until         ms, or empty; one that is past means no delay
--      10 dedup_ttl_ms        integer, or empty for no idempotency record
--      11 tags                JSON object, or empty
--      12 execution_deadline  ms, or empty
--      13 partition_id
-- Replies  ok(execution_id, 'waiting' or 'delayed'), or DUPLICATE with the earlier id
-- Refuses  invalid_input  invalid_policy_json  invalid_capabilities
register('ff_create_execution', function(keys, args)
  local core, lane_index, idempotency = keys[1], keys[5], keys[6]
  local execution_id = args[1]
  local priority = number_argument(args[5], 'priority')
  if priority < 0 then
    priority = 0
  elseif priority > 9000 then
    priority = 9000
  end
  local remembers = is_set(idempotency) and not string.find(idempotency, 'ff:noop:', 1, true)
  if remembers then
    local earlier = redis.call('GET', idempotency)
    if earlier then
      return { 1, 'DUPLICATE', earlier }
    end
  end
  if redis.call('EXISTS', core) == 1 then
    return { 1, 'DUPLICATE', execution_id }
  end
  local required = required_capabilities(args[7])
  for position, name in ipairs(CREATE_ARGUMENTS) do
    text_argument(args[position], name)
  end
  score_argument(args[5], 'priority')
  local delay_until = is_set(args[9]) and number_argument(args[9], 'delay_until')
  local deadline = is_set(args[12]) and score_argument(args[12], 'execution_deadline')
  local dedup_ttl_ms = tonumber(args[10]) or 0
  if remembers and dedup_ttl_ms > 0 then
    integer_argument(args[10], 'dedup_ttl_ms')
  end

  local now_ms = server_time_ms()
  local delayed = delay_until and delay_until > now_ms
  write_new_core(core, args, priority, delayed, required, now_ms)
  if args[8] ~= '' then
    redis.call('SET', keys[2], args[8])
  end
  if args[7] ~= '' then
    redis.call('SET', keys[3], args[7])
  end
  write_tags(keys[4], args[11])
  if delayed then
    redis.call('ZADD', lane_index, delay_until, execution_id)
  else
    -- The caller chose the delayed index because there is a delay; the reference would lose the execution there.
    local eligible = string.gsub(lane_index, ':delayed$', ':eligible')
    redis.call('ZADD', eligible, eligible_score(priority, now_ms), execution_id)
  end
  redis.call('SADD', keys[8], execution_id)
  if deadline then
    redis.call('ZADD', keys[7], deadline, execution_id)
  end
  if remembers and dedup_ttl_ms > 0 then
    redis.call('SET', idempotency, execution_id, 'PX', dedup_ttl_ms)
  end
  return ok(execution_id, delayed and 'delayed' or 'waiting')
end)
