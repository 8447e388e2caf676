-- Looks at many indexes at once, so that an engine at rest costs next to nothing. One call looks at everything that one
-- node of a cluster serves, without naming it in KEYS: these functions only read, and may cross slots.

-- Calls visit(position) for each of the keys that exists. Halves what it asks for, so that nothing costs one command.
-- A key that has moved to another node counts as existing: the caller's next call finds it.
local function visit_existing(keys, visit, first, last)
  local done, count = pcall(redis.call, 'EXISTS', unpack(keys, first, last))
  if done and count == 0 then
    return
  elseif first == last then
    visit(first)
    return
  end
  local middle = math.floor((first + last) / 2)
  visit_existing(keys, visit, first, middle)
  visit_existing(keys, visit, middle + 1, last)
end

-- Lua passes on so many values at a time.
local LOOK_AT_ONCE = 4000

-- Reads groups of keys from args, each a count and then as many keys, all of a group in one slot where there are slots;
-- calls visit(position, key, key_extra) for each that exists, positions counted over all groups from 0.
-- width: arguments of a key, 1 or 2
local function visit_groups(args, width, visit)
  local at, position = 1, 0
  while args[at] do
    local count = count_argument(args[at])
    for first = 1, count, LOOK_AT_ONCE do
      local keys = {}
      for number = first, math.min(count, first + LOOK_AT_ONCE - 1) do
        keys[#keys + 1] = text_argument(args[at + 1 + (number - 1) * width], 'key')
      end
      local base = at + (first - 1) * width
      visit_existing(keys, function(number)
        visit(position + first + number - 2, keys[number], args[base + number * width])
      end, 1, #keys)
    end
    at = at + 1 + count * width
    position = position + count
  end
end

-- ffsuper_present: tell which of many keys exist.
-- KEYS  1 node  string  not touched; any key of the node that is asked
-- ARGV  1 count  how many keys follow, all in one slot
--       2 keys   N texts; then the next count and its keys, and so on
-- Replies  ok(position...), from 0
-- Refuses  invalid_input
register('ffsuper_present', function(_, args)
  local found = {}
  visit_groups(args, 1, function(position)
    found[#found + 1] = position
  end)
  return ok(unpack(found))
end, { 'no-writes', 'allow-cross-slot-keys' })

-- ffsuper_due: tell the lowest score, from a bound on, in each of many time-ordered indexes.
-- KEYS  1 node  string  not touched; any key of the node that is asked
-- ARGV  1 count  how many pairs follow, all keys in one slot
--       2 pairs  N texts, a key and the lowest score of interest; then the next count and its pairs, and so on
-- Replies  ok(server_time_ms, position, score, ...) for the indexes that have such a member, from 0; the score is empty for
--          what is no index, and -inf where another node has it by now
-- Refuses  invalid_input
register('ffsuper_due', function(_, args)
  local found = { tostring(server_time_ms()) }
  visit_groups(args, 2, function(position, key, bound)
    local done, first = pcall(redis.call, 'ZRANGEBYSCORE', key, bound, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if done and first[2] then
      found[#found + 1], found[#found + 2] = position, first[2]
    elseif not done then
      local is_damaged = string.find(error_text(first), 'WRONGTYPE', 1, true)
      found[#found + 1], found[#found + 2] = position, is_damaged and '' or '-inf'
    end
  end)
  return ok(unpack(found))
end, { 'no-writes', 'allow-cross-slot-keys' })

-- Whether an execution could be claimed by its record, is of one of the kinds (nil for any), and granted to nobody.
local function is_waiting(tag, execution_id, kinds)
  if not is_execution_id(tag, execution_id) then
    return false
  end
  local record = redis.pcall('HMGET', exec_key(tag, execution_id, 'core'), 'lifecycle_phase', 'ownership_state',
    'eligibility_state', 'execution_kind')
  return record[1] == 'runnable' and record[2] == 'unowned' and record[3] == 'eligible_now'
    and (not kinds or kinds[record[4]]) and redis.call('EXISTS', exec_key(tag, execution_id, 'claim_grant')) == 0
end

-- Returns how many members a page of an index has, how many of them come before the first that waits for us, and that one;
-- all of them and nil when there is none. Nearly always it is the first of all, so the others are read only if it is not.
local function first_waiting(eligible, offset, page, kinds)
  local tag, skipped = tag_of(eligible), 0
  local members = math.min(page, redis.call('ZCARD', eligible) - offset)
  while skipped < members do
    local last = skipped == 0 and 0 or members - 1
    for _, execution_id in ipairs(redis.call('ZRANGE', eligible, offset + skipped, offset + last)) do
      if is_waiting(tag, execution_id, kinds) then
        return members, skipped, execution_id
      end
      skipped = skipped + 1
    end
  end
  return members, skipped, nil
end

-- Calls visit(position, index) for each eligible index that exists among groups of places: each a count, the number of a
-- lane and as many partitions, all in one slot where there are slots; positions counted over all groups from 0.
local function visit_places(args, at, lanes, visit)
  local position = 0
  while args[at] do
    local count, lane_id = count_argument(args[at]), text_argument(lanes[tonumber(args[at + 1])], 'lane')
    local keys = {}
    for number = 1, count do
      local tag = '{fp:' .. text_argument(args[at + 1 + number], 'partition') .. '}'
      keys[number] = lane_index_key(tag, lane_id, 'eligible')
    end
    if count > 0 then
      visit_existing(keys, function(number)
        visit(position + number - 1, keys[number])
      end, 1, count)
    end
    at = at + 2 + count
    position = position + count
  end
end

-- ffsuper_waiting: tell which of many lanes and partitions have executions that wait for a worker, and which comes first.
-- KEYS  1 node   string  not touched; any key of the node that is asked
-- ARGV  1 page   members of an index that are looked at
--       2 count  how many kinds follow
--       3 kinds  N texts, none for any kind; then a count and so many lanes; then a count and so many pairs, the position of
--                a place and how many members are passed over there; then groups of places, at most 4000 in each: a count,
--                the number of a lane, from 1, and as many partitions, which are in one slot
-- Replies  ok(position, 'waiting', members, skipped, execution_id, ...) for the places that have members, from 0; skipped
--          come before the first that could be claimed, all when there is none and its id is empty. In the place of
--          'waiting' stands 'damaged' for what is no index, 'away' where another node has it by now; the last is the error
-- Refuses  invalid_input
register('ffsuper_waiting', function(_, args)
  local page = integer_argument(args[1], 'page')
  local kinds, at = set_argument(args, 2)
  local lanes, offsets_at = texts_argument(args, at)
  local offsets, first_group = {}, offsets_at + 1 + 2 * count_argument(args[offsets_at])
  for pair = offsets_at + 1, first_group - 1, 2 do
    offsets[integer_argument(args[pair], 'position')] = integer_argument(args[pair + 1], 'offset')
  end
  local reply = ok()
  local function tell(...)
    for _, part in ipairs({ ... }) do
      reply[#reply + 1] = part
    end
  end
  visit_places(args, first_group, lanes, function(position, eligible)
    local done, members, skipped, execution_id = pcall(first_waiting, eligible, offsets[position] or 0, page, kinds)
    if not done then
      local text = error_text(members)
      tell(position, string.find(text, 'WRONGTYPE', 1, true) and 'damaged' or 'away', 0, 0, text)
    elseif members > 0 then
      tell(position, 'waiting', members, skipped, execution_id or '')
    end
  end)
  return reply
end, { 'no-writes', 'allow-cross-slot-keys' })
