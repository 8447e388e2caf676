-- Claims of the executions that come first at a place, in one call, each with what its handler needs. They leave the keys
-- that the protocol's calls leave one by one: a grant that is used up at once need not be written.

-- A record's fields: as require_claimable and write_new_lease have them, and what tells who can have the execution.
local CLAIM_FIELDS = { 'lifecycle_phase', 'ownership_state', 'eligibility_state', 'terminal_outcome', 'attempt_state',
  'current_lease_epoch', 'total_attempt_count', 'started_at', 'required_capabilities', 'execution_kind',
  'current_attempt_index' }

-- Members of the index that one call looks at, and how many it reads at once when the first ones are not enough.
local MOST_MEMBERS = 100
local MORE_MEMBERS = 32

-- Whether require_capabilities passes, as far as the execution's side goes.
local function has_capabilities(required, offered)
  return not is_set(required)
    or pcall(require_capability_limits, required, 'required') and missing_capabilities(required, offered) == ''
end

-- Whether nothing keeps the worker from a new attempt at an execution, and nothing has to be put away for it.
local function is_plain(call, claim_grant, lease_current, record)
  return call.are_capabilities_valid and pcall(require_claimable, record)
    and has_capabilities(record[9], call.args[1])
    and redis.call('EXISTS', claim_grant, lease_current) == 0
end

-- Claims an execution that is plain; returns nil when it is not. Until call.has_lease is true, an error leaves no more than
-- the protocol's claim leaves when it fails at the same point, and that can be tried next.
local function claim_plainly(call, execution_id, prefix, record)
  local lease_current = prefix .. 'lease:current'
  if not is_plain(call, prefix .. 'claim_grant', lease_current, record) then
    return nil
  end
  local core = prefix .. 'core'
  local args, next_id = call.args, call.next_id
  local lease = new_lease(call.term, execution_id, args[next_id], args[next_id + 1], record[6])
  local _, attempt_index, attempt_type = begin_next_attempt(core, prefix .. 'attempts', record, lease)
  call.has_lease = true
  write_new_lease(core, lease_current, record, lease, attempt_index)
  redis.call('ZREM', call.eligible, execution_id)
  index_lease(call.lease_expiry, call.worker_leases, call.active, lease)
  append_acquired(prefix .. 'lease:history', lease, attempt_index)
  return lease_reply(lease, attempt_index, attempt_type)
end

-- Returns the type of an interrupted attempt that was handed back before a handler was called for it, or nil. A claim that
-- knows nothing of not_begun leaves it there, but writes resumed_at: a handler may have been called since.
local function type_if_unbegun(attempt)
  local record = redis.pcall('HMGET', attempt, 'not_begun', 'resumed_at', 'attempt_type')
  return is_set(record[1]) and not is_set(record[2]) and record[3] or nil
end

-- Claims an execution as the protocol does, whatever it is like. One that needs what the worker lacks is set aside.
local function claim_by_protocol(call, id, prefix, record)
  local core, grant, lease_current = prefix .. 'core', prefix .. 'claim_grant', prefix .. 'lease:current'
  local term, args, next_id = call.term, call.args, call.next_id
  local capabilities, ttl_ms, grant_ttl_ms = args[1], args[5], args[6]
  local lease_id, attempt_id = args[next_id], args[next_id + 1]
  local granted, refusal = pcall(call_protocol, 'ff_issue_claim_grant', { core, grant, call.eligible },
    { id, term.worker_id, term.worker_instance_id, term.lane_id, '', grant_ttl_ms, '', '', capabilities })
  if not granted then
    if error_text(refusal) == 'capability_mismatch' then
      block_route(core, call.eligible, call.blocked_route, id, term.now)
    end
    error(refusal, 0)
  end
  local history, noop = prefix .. 'lease:history', call.noop
  local done, reply = pcall(call_protocol, 'ff_claim_execution',
    { core, grant, call.eligible, call.lease_expiry, call.worker_leases, noop, noop, noop, prefix .. 'attempts',
      lease_current, history, call.active },
    { id, term.worker_id, term.worker_instance_id, term.lane_id, '', lease_id, ttl_ms, math.floor(ttl_ms * 2 / 3),
      attempt_id })
  if done or error_text(reply) ~= 'use_claim_resumed_execution' then
    return done and reply or error(reply, 0)
  end
  local attempt = attempt_key(call.tag, id, is_set(record[11]) and record[11] or '0')
  local unbegun_type = type_if_unbegun(attempt)
  reply = call_protocol('ff_claim_resumed_execution',
    { core, grant, call.eligible, call.lease_expiry, call.worker_leases, attempt, lease_current, history, call.active },
    { id, term.worker_id, term.worker_instance_id, term.lane_id, '', lease_id, ttl_ms })
  if unbegun_type then
    redis.call('HDEL', attempt, 'not_begun', 'resumed_at')
    reply[8] = unbegun_type
  end
  return reply
end

-- Appends what a handler needs to the reply to its claim: payload, policy, deadline, then names and values of the tags.
-- A key that cannot be read raises before anything is appended.
local function append_context(reply, call, execution_id, prefix)
  local payload, policy = redis.call('GET', prefix .. 'payload'), redis.call('GET', prefix .. 'policy')
  local deadline = redis.call('ZSCORE', call.execution_deadline, execution_id)
  local tags = redis.call('HGETALL', prefix .. 'tags')
  reply[10], reply[11], reply[12] = payload or '', policy or '', deadline or ''
  for position = 1, #tags do
    reply[12 + position] = tags[position]
  end
end

-- Claims an execution with the next two of the ids. They are used up unless it is refused: an error may have left them in a
-- record.
-- Returns what has become of it, as ffsuper_claim_first tells it.
local function claim_one(call, execution_id, prefix, record)
  call.has_lease = false
  local done, reply = pcall(claim_plainly, call, execution_id, prefix, record)
  if not (done and reply) and not call.has_lease then
    done, reply = pcall(claim_by_protocol, call, execution_id, prefix, record)
  end
  if not done and type(reply) == 'table' and reply.refusal then
    table.insert(reply.refusal, 2, execution_id)
    return reply.refusal
  end
  call.next_id = call.next_id + 2
  if not done then
    return { -1, execution_id, error_text(reply) }
  end
  reply[2], reply[9] = execution_id, record[10] or ''
  pcall(append_context, reply, call, execution_id, prefix)
  return reply
end

-- Looks at a member of the index. Returns what has become of it, as ffsuper_claim_first tells it, or nil when it was passed
-- over: an execution of another kind, or nobody's.
local function visit_member(call, execution_id)
  local prefix = call.prefix .. execution_id .. ':'
  local record = redis.pcall('HMGET', prefix .. 'core', unpack(CLAIM_FIELDS))
  if record.err then
    return { -1, execution_id, record.err }
  elseif call.kinds and not call.kinds[record[10]] or not is_execution_id(call.tag, execution_id) then
    return nil
  end
  return claim_one(call, execution_id, prefix, record)
end

-- Walks the index from an offset on, until all ids are used up or so many members have been looked at.
-- Returns a reply that tells what has become of each that was not passed over.
local function walk_eligible(call, offset)
  local reply, last, left = ok(), #call.args, MOST_MEMBERS
  local size = math.min(left, (last - call.next_id + 1) / 2)
  while size > 0 do
    local page = redis.call('ZRANGE', call.eligible, offset, offset + size - 1)
    for _, execution_id in ipairs(page) do
      if call.next_id > last then
        return reply
      end
      local outcome = visit_member(call, execution_id)
      reply[#reply + 1] = outcome
      if not outcome or outcome[1] ~= 1 and redis.call('ZSCORE', call.eligible, execution_id) then
        offset = offset + 1
      end
    end
    left = #page == size and call.next_id < last and left - size or 0
    size = math.min(left, MORE_MEMBERS)
  end
  return reply
end

-- ffsuper_claim_first: claim the executions that come first in one lane and partition for one worker, and tell what their
-- handlers need. New, retried and replayed attempts begin, as do those that were handed back before they did; interrupted
-- ones go on. What needs capabilities that the worker lacks is blocked.
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
--       7 offset              members of the index that are passed over
--       8 count               how many kinds follow
--       9 kinds               N texts; executions of others are passed over, none for any kind
--     9+N.. ids               pairs of a new lease_id and a new attempt_id; as many executions are claimed at most
-- Replies  ok(then for each execution that was not passed over a list): 1, execution_id, what ff_claim_execution or
--          ff_claim_resumed_execution replies behind OK (of what was handed back before it began, its own type in the
--          place of 'resumed'), kind, payload, policy, deadline (empty for none), and names and values of the tags; nothing
--          behind the kind when one of them cannot be read; or 0, execution_id, and the refusal of the grant or the claim;
--          or -1, execution_id, and the error that has stopped it
-- Refuses  invalid_input
register('ffsuper_claim_first', function(keys, args)
  require_keys(keys, 7)
  local ttl_ms, offset = integer_argument(args[5], 'lease_ttl_ms'), integer_argument(args[7], 'offset')
  integer_argument(args[6], 'grant_ttl_ms')
  local kinds, first_id = set_argument(args, 8)
  if offset < 0 or (#args - first_id) % 2 == 0 then
    refuse('invalid_input', 'offset must not be negative, and ids must be pairs')
  end
  local tag = tag_of(keys[1])
  return walk_eligible({
    eligible = keys[1],
    blocked_route = keys[2],
    lease_expiry = keys[3],
    worker_leases = keys[4],
    active = keys[5],
    execution_deadline = keys[6],
    noop = keys[7],
    tag = tag,
    prefix = 'ff:exec:' .. tag .. ':',
    are_capabilities_valid = pcall(require_capability_limits, args[1], 'worker'),
    term = new_term(args, ttl_ms, math.floor(ttl_ms * 2 / 3), server_time_ms()),
    kinds = kinds,
    args = args,
    next_id = first_id,
    has_lease = false, -- of the claim that is being made
  }, offset)
end)
