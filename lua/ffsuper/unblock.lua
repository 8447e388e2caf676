-- Executions that are blocked for a reason that may have gone: what they wait for, and letting them go.

-- Blocked index -> the reason that its entries bear, and the field that says what they wait for. Entries with another
-- reason are an operator's, and stay.
local BLOCKED = {
  ['blocked:route'] = { reason = 'waiting_for_capable_worker', field = 'required_capabilities' },
  ['blocked:budget'] = { reason = 'waiting_for_budget', field = 'budget_ids' },
  ['blocked:quota'] = { reason = 'waiting_for_quota', field = 'quota_policy_id' },
}

-- What is known of a blocked index by its name, refusing other keys.
local function blocked_kind(blocked)
  local name = string.match(blocked, '(blocked:%a+)$') or ''
  return BLOCKED[name] or refuse('invalid_input', 'no index of blocked executions: ' .. blocked)
end

-- A page of an index with what each of its entries waits for; false for those that are none of ours.
local function blocked_page(blocked, kind, offset, limit)
  local tag, page = tag_of(blocked), {}
  for _, execution_id in ipairs(redis.call('ZRANGE', blocked, offset, offset + limit - 1)) do
    local done, record = pcall(redis.call, 'HMGET', exec_key(tag, execution_id, 'core'), 'blocking_reason', kind.field)
    page[#page + 1] = { execution_id, done and record[1] == kind.reason and (record[2] or '') }
  end
  return page
end

-- ffsuper_blocked_causes: tell what a page of blocked executions waits for.
-- KEYS  1 blocked  zset  the lane's, by route, budget or quota
-- ARGV  1 offset
--       2 limit
-- Replies  ok(seen, cause, count, ...), a cause being the record's text: capabilities, budget ids, a quota policy's id
-- Refuses  invalid_input
register('ffsuper_blocked_causes', function(keys, args)
  local blocked = keys[1]
  local offset, limit = integer_argument(args[1], 'offset'), integer_argument(args[2], 'limit')
  local page, counts = blocked_page(blocked, blocked_kind(blocked), offset, limit), {}
  for _, entry in ipairs(page) do
    if entry[2] then
      counts[entry[2]] = (counts[entry[2]] or 0) + 1
    end
  end
  local reply = ok(#page)
  for cause, count in pairs(counts) do
    reply[#reply + 1] = cause
    reply[#reply + 1] = count
  end
  return reply
end, { 'no-writes' })

-- ffsuper_unblock: make those of a page of blocked executions claimable that wait for something that is there now.
-- KEYS  1 blocked   zset  the lane's, by route, budget or quota
--       2 eligible  zset  the lane's
-- ARGV  1 offset
--       2 limit
--       3 causes  N pairs: what is there, and how many executions it is enough for at most
-- Replies  ok(seen, unblocked, failed, failed_id, why), then each cause that some were unblocked for, and how many
-- Refuses  invalid_input
register('ffsuper_unblock', function(keys, args)
  local blocked, eligible = keys[1], keys[2]
  local offset, limit = integer_argument(args[1], 'offset'), integer_argument(args[2], 'limit')
  local kind, tag, now = blocked_kind(blocked), tag_of(blocked), tostring(server_time_ms())
  local room, used = {}, {}
  for position = 3, #args, 2 do
    room[args[position]] = integer_argument(args[position + 1], 'count')
  end
  local page, unblocked, failed, example, why = blocked_page(blocked, kind, offset, limit), 0, 0, '', ''
  for _, entry in ipairs(page) do
    local execution_id, cause = entry[1], entry[2]
    if cause and (room[cause] or 0) > 0 then
      local done, failure = pcall(carry_out, 'ff_unblock_execution',
        { exec_key(tag, execution_id, 'core'), blocked, eligible }, { execution_id, now, kind.reason })
      if done then
        unblocked = unblocked + 1
        room[cause] = room[cause] - 1
        used[cause] = (used[cause] or 0) + 1
      else
        failed, example, why = failed + 1, execution_id, error_text(failure)
      end
    end
  end
  local reply = ok(#page, unblocked, failed, example, why)
  for cause, count in pairs(used) do
    reply[#reply + 1] = cause
    reply[#reply + 1] = count
  end
  return reply
end)

-- ffsuper_quota_room: tell how many more executions a quota admits now. Nothing is reserved.
-- KEYS  1 definition   hash    the quota policy
--       2 window       zset    admissions of the sliding window
--       3 concurrency  string  how many are admitted
-- Replies  ok(count), empty without end
register('ffsuper_quota_room', function(keys)
  local policy = redis.call('HMGET', keys[1], 'max_requests_per_window', 'requests_per_window_seconds',
    'active_concurrency_cap')
  local room = math.huge
  local rate, cap = stored_number(policy[1]), stored_number(policy[3])
  if rate > 0 then
    local window_ms = (tonumber(policy[2] or 60) or 60) * 1000
    local begins = string.format('(%.17g', server_time_ms() - window_ms)
    room = math.min(room, rate - redis.call('ZCOUNT', keys[2], begins, '+inf'))
  end
  if cap > 0 then
    room = math.min(room, cap - stored_number(redis.call('GET', keys[3])))
  end
  return ok(room < math.huge and tostring(math.max(0, math.floor(room))) or '')
end, { 'no-writes' })
