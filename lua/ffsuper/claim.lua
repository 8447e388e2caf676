-- Claims of several executions in one call, each with what its handler needs. They leave the keys that the protocol's calls
-- leave one by one: a grant that is used up at once need not be written.

-- As require_claimable and write_new_lease have them, and what a worker must be able to do.
local CLAIM_FIELDS = { 'lifecycle_phase', 'ownership_state', 'eligibility_state', 'terminal_outcome', 'attempt_state',
  'current_lease_epoch', 'total_attempt_count', 'started_at', 'required_capabilities' }

-- Whether require_capabilities passes, as far as the execution's side goes.
local function has_capabilities(required, offered)
  return not is_set(required)
    or pcall(require_capability_limits, required, 'required') and missing_capabilities(required, offered) == ''
end

-- Whether nothing keeps the worker from a new attempt at an execution, and nothing has to be put away for it.
local function is_plain(call, claim, record)
  return call.are_capabilities_valid and pcall(require_claimable, record)
    and has_capabilities(record[9], call.capabilities)
    and redis.call('EXISTS', claim.claim_grant, claim.lease_current) == 0
    and redis.call('ZSCORE', call.eligible, claim.execution_id)
end

-- Claims an execution that is plain; returns nil when it is not. Until the claim has a lease, an error leaves no more than
-- the protocol's claim leaves when it fails at the same point, and that can be tried next.
local function claim_plainly(call, claim)
  local core = claim.core
  local record = redis.call('HMGET', core, unpack(CLAIM_FIELDS))
  if not is_plain(call, claim, record) then
    return nil
  end
  local lease = new_lease(call.term, claim.execution_id, claim.lease_id, claim.attempt_id, record[6])
  local _, attempt_index, attempt_type = begin_next_attempt(core, claim.prefix .. 'attempts', record, lease)
  claim.has_lease = true
  write_new_lease(core, claim.lease_current, record, lease, attempt_index)
  redis.call('ZREM', call.eligible, claim.execution_id)
  index_lease(call.lease_expiry, call.worker_leases, call.active, lease)
  append_acquired(claim.prefix .. 'lease:history', lease, attempt_index)
  return lease_reply(lease, attempt_index, attempt_type)
end

-- Claims an execution as the protocol does, whatever it is like. One that needs what the worker lacks is set aside.
local function claim_by_protocol(call, claim)
  local id, core, grant, term = claim.execution_id, claim.core, claim.claim_grant, call.term
  local granted, refusal = pcall(call_protocol, 'ff_issue_claim_grant', { core, grant, call.eligible },
    { id, term.worker_id, term.worker_instance_id, term.lane_id, '', call.grant_ttl_ms, '', '', call.capabilities })
  if not granted then
    if error_text(refusal) == 'capability_mismatch' then
      block_route(core, call.eligible, call.blocked_route, id, term.now)
    end
    error(refusal, 0)
  end
  local history, noop = claim.prefix .. 'lease:history', call.noop
  local done, reply = pcall(call_protocol, 'ff_claim_execution',
    { core, grant, call.eligible, call.lease_expiry, call.worker_leases, noop, noop, noop, claim.prefix .. 'attempts',
      claim.lease_current, history, call.active },
    { id, term.worker_id, term.worker_instance_id, term.lane_id, '', claim.lease_id, call.ttl_ms, call.renewal_ms,
      claim.attempt_id })
  if done or error_text(reply) ~= 'use_claim_resumed_execution' then
    return done and reply or error(reply, 0)
  end
  local index = redis.call('HGET', core, 'current_attempt_index')
  return call_protocol('ff_claim_resumed_execution',
    { core, grant, call.eligible, call.lease_expiry, call.worker_leases,
      attempt_key(call.tag, id, is_set(index) and index or '0'), claim.lease_current, history, call.active },
    { id, term.worker_id, term.worker_instance_id, term.lane_id, '', claim.lease_id, call.ttl_ms })
end

-- Returns the reply to one claim, or raises what it is refused with.
local function claim_one(call, claim)
  local done, reply = pcall(claim_plainly, call, claim)
  if done and reply then
    return reply
  elseif claim.has_lease then
    error(reply, 0)
  end
  return claim_by_protocol(call, claim)
end

-- Appends what a handler needs to the reply to its claim: payload, policy, deadline, then names and values of the tags.
-- A key that cannot be read raises before anything is appended.
local function append_context(reply, call, claim)
  local prefix = claim.prefix
  local payload, policy = redis.call('GET', prefix .. 'payload'), redis.call('GET', prefix .. 'policy')
  local deadline = redis.call('ZSCORE', call.execution_deadline, claim.execution_id)
  local tags = redis.call('HGETALL', prefix .. 'tags')
  reply[9], reply[10], reply[11] = payload or '', policy or '', deadline or ''
  for position = 1, #tags do
    reply[11 + position] = tags[position]
  end
end

-- Claims one execution; returns a list that tells what has become of it.
local function claim_apart(call, claim)
  local done, reply = pcall(claim_one, call, claim)
  if done then
    pcall(append_context, reply, call, claim)
    return reply
  end
  return type(reply) == 'table' and reply.refusal or { -1, error_text(reply) }
end

-- ffsuper_claim: claim executions of one lane and partition for one worker, and tell what their handlers need. New, retried
-- and replayed attempts begin, interrupted ones go on; what needs capabilities that the worker lacks is blocked.
-- KEYS  1 eligible            zset    the lane's
--       2 blocked_route       zset    the lane's
--       3 lease_expiry        zset    execution id -> lease expiry
--       4 worker_leases       set     executions of the worker instance
--       5 active              zset    the lane's; lease expiry of the claim, not of renewals
--       6 execution_deadline  zset    execution id -> deadline; read only
--       7 noop                string  never exists, so that a cluster refuses the call while it moves the slot
-- ARGV  1 capabilities        the worker's, with commas between them; may be empty
--       2 worker_id
--       3 worker_instance_id
--       4 lane_id
--       5 lease_ttl_ms        integer
--       6 grant_ttl_ms        integer; of a grant that is not used up, because its claim is refused or fails
--       7 claims  N triples: execution_id, lease_id, attempt_id, the last two new ones
-- Replies  ok(then for each claim a list): as ff_claim_execution or ff_claim_resumed_execution replies, then payload, policy,
--          deadline (empty for none), and names and values of the tags; none of these when one of them cannot be read; or a
--          refusal, as the grant's or the claim's; or -1 and the error that has stopped it
-- Refuses  invalid_input
register('ffsuper_claim', function(keys, args)
  require_keys(keys, 7)
  local ttl_ms = integer_argument(args[5], 'lease_ttl_ms')
  local renewal_ms = math.floor(ttl_ms * 2 / 3)
  local call = {
    eligible = keys[1],
    blocked_route = keys[2],
    lease_expiry = keys[3],
    worker_leases = keys[4],
    active = keys[5],
    execution_deadline = keys[6],
    noop = keys[7],
    tag = tag_of(keys[1]),
    capabilities = text_argument(args[1], 'capabilities'),
    are_capabilities_valid = pcall(require_capability_limits, args[1], 'worker'),
    term = new_term(args, ttl_ms, renewal_ms, server_time_ms()),
    ttl_ms = ttl_ms,
    renewal_ms = renewal_ms,
    grant_ttl_ms = integer_argument(args[6], 'grant_ttl_ms'),
  }
  local claims = {}
  for position = 7, #args, 3 do
    local execution_id = args[position]
    local prefix = exec_key(call.tag, execution_id, '')
    claims[#claims + 1] = {
      execution_id = execution_id,
      lease_id = text_argument(args[position + 1], 'lease_id'),
      attempt_id = text_argument(args[position + 2], 'attempt_id'),
      prefix = prefix,
      core = prefix .. 'core',
      claim_grant = prefix .. 'claim_grant',
      lease_current = prefix .. 'lease:current',
    }
  end
  local reply = ok()
  for position, claim in ipairs(claims) do
    reply[2 + position] = claim_apart(call, claim)
  end
  return reply
end)
