-- Creation of executions.

local MAX_BUDGETS = 100

-- Refuses a required capability that could not stand in a list.
local function require_capability_token(token)
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

-- What a decoded policy requires of the worker, nil for nothing. Null counts as absent: the reference refuses it,
-- although its own clients write it.
local function routing_requirements(policy)
  if policy.routing_requirements ~= cjson.null then
    return policy.routing_requirements
  end
end

-- Returns a policy as a table, empty for anything else that is JSON.
local function decoded_policy(policy_json)
  if not is_set(policy_json) or policy_json == '{}' then
    return {}
  end
  local is_readable, policy = pcall(cjson.decode, policy_json)
  if not is_readable then
    refuse('invalid_policy_json', 'malformed')
  end
  return type(policy) == 'table' and policy or {}
end

-- Refuses what is no UUID, in whatever of its forms.
local function require_uuid(text, name)
  local digits = type(text) == 'string' and string.match(text, '^[%x-]+$') and string.gsub(text, '-', '') or ''
  if #digits ~= 32 then
    refuse('invalid_policy_json', name .. ':not_a_uuid')
  end
  return text
end

-- Returns the budgets that a policy names, with commas between them, and its quota policy; both empty for none. The
-- reference stores them in the policy alone, where its scheduler does not look.
local function admission_limits(policy)
  local ids, quota_policy_id = policy.budget_ids, policy.quota_policy_id
  if ids == nil or ids == cjson.null then
    ids = {}
  elseif type(ids) ~= 'table' then
    refuse('invalid_policy_json', 'budget_ids:not_array')
  elseif #ids > MAX_BUDGETS then
    refuse('invalid_policy_json', 'budget_ids:too_many')
  end
  for _, id in ipairs(ids) do
    require_uuid(id, 'budget_ids')
  end
  if quota_policy_id == nil or quota_policy_id == cjson.null then
    return table.concat(ids, ','), ''
  end
  return table.concat(ids, ','), require_uuid(quota_policy_id, 'quota_policy_id')
end

-- Returns the capabilities that a policy requires: sorted, with commas between them, empty when there are none.
local function required_capabilities(policy)
  local routing = routing_requirements(policy)
  if routing == nil then
    return ''
  elseif type(routing) ~= 'table' then
    refuse('invalid_policy_json', 'routing_requirements:not_object')
  end
  local required = routing.required_capabilities
  if required == nil then
    return ''
  elseif type(required) ~= 'table' then
    refuse('invalid_capabilities', 'required:not_array')
  end
  for _, token in ipairs(required) do
    require_capability_token(token)
  end
  if #required > MAX_CAPABILITIES then
    refuse('invalid_capabilities', 'required:too_many_tokens')
  end
  table.sort(required)
  local list = table.concat(required, ',')
  if #list > MAX_CAPABILITIES_BYTES then
    refuse('invalid_capabilities', 'required:too_many_bytes')
  end
  return list
end

-- Writes the record. Its order is by use: the server looks for a field from the first one on, and every claim, renewal
-- and outcome reads and writes those at the top.
-- delay_until: as given, when it is still to come
local function write_created(core, args, priority, delay_until, now)
  redis.call('HSET', core,
    'lifecycle_phase', 'runnable',
    'ownership_state', 'unowned',
    'lease_expires_at', '',
    'current_lease_id', '',
    'current_lease_epoch', '0',
    'current_attempt_id', '',
    'terminal_outcome', 'none',
    'eligibility_state', delay_until and 'not_eligible_until_time' or 'eligible_now',
    'attempt_state', 'pending_first_attempt',
    'current_attempt_index', '',
    'last_mutation_at', now,
    'lease_last_renewed_at', '',
    'lease_renewal_deadline', '',
    'lease_revoked_at', '',
    'public_state', delay_until and 'delayed' or 'waiting',
    'blocking_reason', delay_until and 'waiting_for_delay' or 'waiting_for_worker',
    'blocking_detail', delay_until and 'delayed until ' .. delay_until or '',
    'last_transition_at', now,
    'current_worker_id', '',
    'current_worker_instance_id', '',
    'lease_acquired_at', '',
    'lease_expired_at', '',
    'lease_revoke_reason', '',
    'total_attempt_count', '0',
    'started_at', '',
    'flow_id', '',
    'completed_at', '',
    'current_lane', args[3],
    'pending_retry_reason', '',
    'pending_replay_reason', '',
    'pending_replay_requested_by', '',
    'pending_previous_attempt_index', '',
    'progress_pct', '',
    'progress_message', '',
    'progress_updated_at', '',
    'priority', priority,
    'created_at', now,
    'lane_id', args[3],
    'retry_count', '0',
    'replay_count', '0',
    'lease_reclaim_count', '0',
    'delay_until', delay_until or '',
    'current_suspension_id', '',
    'current_waitpoint_id', '',
    'execution_id', args[1],
    'namespace', args[2],
    'execution_kind', args[4],
    'partition_id', args[13],
    'creator_identity', args[6])
end

local function write_submitted(payload, policy, tags, args)
  if args[8] ~= '' then
    redis.call('SET', payload, args[8])
  end
  if args[7] ~= '' then
    redis.call('SET', policy, args[7])
  end
  local members = args[11] ~= '' and args[11] ~= '{}' and flat_members(args[11], true)
  if members then
    write_members(tags, members)
  end
end

-- Returns the time for which to keep the idempotency key, or nil when it is not to be kept.
local function dedup_ttl_argument(text)
  local ttl_ms = tonumber(text)
  if not ttl_ms or not (ttl_ms > 0) then
    return nil
  end
  return is_command_integer(ttl_ms) and ttl_ms or integer_argument(text, 'dedup_ttl_ms')
end

local CREATE_ARGUMENTS = { 'execution_id', 'namespace', 'lane_id', 'execution_kind', 'priority', 'creator_identity',
  'policy', 'payload', 'delay_until', 'dedup_ttl_ms', 'tags', 'execution_deadline', 'partition_id' }

-- ff_create_execution: create an execution, once for an id and once for an idempotency key.
-- KEYS  1 core                hash    the execution record
--       2 payload             string
--       3 policy              string
--       4 tags                hash
--       5 lane_index          zset    the lane's: delayed when there is a delay, else eligible
--       6 idempotency         string  the id of the execution created under the key; ff:noop:... for no key
--       7 execution_deadline  zset    execution id -> deadline
--       8 all_executions      set     execution ids
-- ARGV  1 execution_id
--       2 namespace
--       3 lane_id
--       4 execution_kind
--       5 priority            number, brought into 0 to 9000
--       6 creator_identity
--       7 policy              JSON, stored as it is; read are routing_requirements.required_capabilities, budget_ids and
--                             quota_policy_id
--       8 payload             any bytes; empty: none is stored
--       9 delay_until         number, ms; empty or past: no delay
--      10 dedup_ttl_ms        number; empty or not > 0: the key is not kept
--      11 tags                JSON object; anything else is ignored
--      12 execution_deadline  number, ms; empty: none
--      13 partition_id        stored only
-- Replies  ok(execution_id, 'waiting')  ok(execution_id, 'delayed')
--          {1, 'DUPLICATE', execution_id} with the id of the earlier one
-- Refuses  invalid_input  invalid_policy_json  invalid_capabilities
register('ff_create_execution', function(keys, args)
  local core, lane_index, idempotency, execution_deadline, all_executions = keys[1], keys[5], keys[6], keys[7], keys[8]
  local execution_id = args[1]
  local priority = clamped_priority(number_argument(args[5], 'priority'))
  local has_key = is_set(idempotency) and not string.find(idempotency, 'ff:noop:', 1, true)
  local earlier_id = has_key and redis.call('GET', idempotency)
  if earlier_id then
    return { 1, 'DUPLICATE', earlier_id }
  elseif redis.call('EXISTS', core) == 1 then
    return { 1, 'DUPLICATE', execution_id }
  end
  local policy = decoded_policy(args[7])
  local required = required_capabilities(policy)
  local budget_ids, quota_policy_id = admission_limits(policy)
  text_argument(args[#CREATE_ARGUMENTS], CREATE_ARGUMENTS[#args + 1]) -- names the first that is absent
  local until_ms = args[9] ~= '' and number_argument(args[9], 'delay_until')
  local deadline_ms = args[12] ~= '' and score_argument(args[12], 'execution_deadline')
  local dedup_ttl_ms = has_key and dedup_ttl_argument(args[10])
  require_keys(keys, 8)
  local now_ms = server_time_ms()
  local is_delayed = until_ms and until_ms > now_ms
  if not is_delayed then -- NaN gives no score; a delayed execution needs none yet, and its promotion takes NaN for 0
    score_argument(args[5], 'priority')
  end

  write_created(core, args, priority, is_delayed and args[9], tostring(now_ms))
  if required ~= '' then
    redis.call('HSET', core, 'required_capabilities', required)
  end
  if budget_ids ~= '' then
    redis.call('HSET', core, 'budget_ids', budget_ids)
  end
  if quota_policy_id ~= '' then
    redis.call('HSET', core, 'quota_policy_id', quota_policy_id)
  end
  write_submitted(keys[2], keys[3], keys[4], args)
  if is_delayed then
    redis.call('ZADD', lane_index, until_ms, execution_id)
  else
    -- With a delay that is past the caller passes the delayed index, where the reference loses the execution.
    local eligible = string.gsub(lane_index, ':delayed$', ':eligible')
    add_eligible(eligible, eligible_score(priority, now_ms), execution_id)
  end
  redis.call('SADD', all_executions, execution_id)
  if deadline_ms then
    redis.call('ZADD', execution_deadline, deadline_ms, execution_id)
  end
  if dedup_ttl_ms then
    redis.call('SET', idempotency, execution_id, 'PX', dedup_ttl_ms)
  end
  return ok(execution_id, is_delayed and 'delayed' or 'waiting')
end)
