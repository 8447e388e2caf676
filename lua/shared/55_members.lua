-- JSON objects that are stored as hashes.

-- HSET takes its fields as arguments, of which Lua passes some thousands at most. Even, to keep names with values.
local MEMBER_TEXTS_PER_CALL = 2000

-- The name that Lua on the reference's platform has for null, which the reference stores.
local NULL_TEXT = 'userdata: (nil)'

local function member_text(value)
  if value == cjson.null then
    return NULL_TEXT
  end
  return type(value) == 'table' and cjson.encode(value) or tostring(value)
end

local function flatten(text, skips)
  local flat = {}
  for name, value in pairs(cjson.decode(text)) do
    local is_writable, member = pcall(member_text, value)
    if is_writable then
      flat[#flat + 1] = tostring(name)
      flat[#flat + 1] = member
    elseif not skips then
      error(member)
    end
  end
  return flat
end

-- Returns the members of a JSON object, or list, as name, value, ...: nested ones as JSON again. Returns nil when
-- the text is no such thing.
-- skips: whether to leave out members that cannot be JSON again (infinite numbers are read, but not written), and not
--        return nil for them
local function flat_members(text, skips)
  local is_readable, flat = pcall(flatten, text, skips)
  return is_readable and flat or nil
end

local function write_members(key, flat)
  for first = 1, #flat, MEMBER_TEXTS_PER_CALL do
    redis.call('HSET', key, unpack(flat, first, math.min(first + MEMBER_TEXTS_PER_CALL - 1, #flat)))
  end
end
