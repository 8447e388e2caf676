-- Sweeps: a function of the protocol, carried out for a page of an index in one call. The keys of an execution are
-- built from its id: they are in the slot of the index. Entries that cannot be moved stay, and the caller pages past
-- them; a page is what bounds the time of a call.

local function exec_key(tag, execution_id, name)
  return 'ff:exec:' .. tag .. ':' .. execution_id .. ':' .. name
end

local function stream_meta_key(tag, execution_id, index)
  return 'ff:stream:' .. tag .. ':' .. execution_id .. ':' .. index .. ':meta'
end

-- The members of an index that are due, a page of them.
-- args: of the sweep: since_ms (-inf for all), offset, limit
local function due_members(index, args, until_ms)
  local offset, limit = integer_argument(args[2], 'offset'), integer_argument(args[3], 'limit')
  return redis.call('ZRANGEBYSCORE', index, text_argument(args[1], 'since_ms'), until_ms, 'LIMIT', offset, limit)
end

-- What was raised, as text: a refusal's code, or what the server has said.
local function error_text(failure)
  if type(failure) ~= 'table' then
    return tostring(failure)
  end
  return failure.refusal and failure.refusal[2] or failure.err or 'unknown'
end

-- Calls move(member, now) for each; a refusal counts as an outcome, an error as a failure.
-- move: returns what became of the member
-- Returns how many have failed, one of these and why; and what became of the others: kind -> count.
local function tally(members, move, now)
  local failed, example, why, outcomes = 0, '', '', {}
  for _, member in ipairs(members) do
    local done, outcome = pcall(move, member, now)
    if not done and type(outcome) == 'table' and outcome.refusal then
      done, outcome = true, outcome.refusal[2]
    end
    if done then
      outcomes[outcome] = (outcomes[outcome] or 0) + 1
    else
      failed, example, why = failed + 1, member, error_text(outcome)
    end
  end
  return failed, example, why, outcomes
end

-- Appends each kind of outcome and its count to a reply; returns it.
local function with_outcomes(reply, outcomes)
  for outcome, count in pairs(outcomes) do
    reply[#reply + 1] = outcome
    reply[#reply + 1] = count
  end
  return reply
end

-- Moves a page of the members of an index that are due, age_ms ago if that is given; move: see tally.
-- Returns the beginning of a sweep's reply: the server's time, how many members were seen, how many of them are still due,
-- how many have failed, one of these and why; and besides what became of the others: kind -> count.
local function walk(index, args, move, age_ms)
  local now_ms = server_time_ms()
  local since, now, until_ms = args[1], tostring(now_ms), now_ms - (age_ms or 0)
  local members = due_members(index, args, until_ms)
  local before = redis.call('ZCOUNT', index, since, until_ms)
  local failed, example, why, outcomes = tally(members, move, now)
  local left = before - redis.call('ZCOUNT', index, since, until_ms)
  return ok(now, #members, #members - left, failed, example, why), outcomes
end

-- As walk; the reply goes on with each kind of outcome and its count.
local function sweep(index, args, move, age_ms)
  return with_outcomes(walk(index, args, move, age_ms))
end

-- Looks at a page of a set: about so many members, from a cursor on; look: see tally.
-- args: of the scan: cursor, count
-- Returns its reply: the next cursor, how many have failed, one of these and why; then each kind of outcome and its count.
local function scan(set, args, look)
  local cursor, count = text_argument(args[1], 'cursor'), integer_argument(args[2], 'count')
  local page = redis.call('SSCAN', set, cursor, 'COUNT', count)
  local failed, example, why, outcomes = tally(page[2], look)
  return with_outcomes(ok(page[1], failed, example, why), outcomes)
end

-- Carries out a function of the protocol for keys that were built here, and returns its reply. While a cluster moves their
-- slot, some of them may be elsewhere already: then the look at all of them fails, before anything is written.
local function call_protocol(name, keys, args)
  redis.call('EXISTS', unpack(keys))
  return protocol[name](keys, args)
end

-- Does so, and returns what the function says has become of the execution.
local function carry_out(name, keys, args)
  local reply = call_protocol(name, keys, args)
  return reply[3] or reply[2]
end

-- Tells the engine that a member of a flow has ended, where the protocol's function does not.
local function publish_timed_end(core, execution_id)
  local record = redis.call('HMGET', core, 'lifecycle_phase', 'flow_id', 'terminal_outcome')
  if record[1] == 'terminal' then
    publish_completion(record[2], execution_id, record[3])
  end
end
