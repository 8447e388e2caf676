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
    local count = integer_argument(args[at], 'count')
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
