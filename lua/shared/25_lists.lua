-- Lists among arguments: how many texts follow, and these.

local function count_argument(text)
  local count = integer_argument(text, 'count')
  return count < 0 and refuse('invalid_input', 'count must not be negative, got: ' .. text) or count
end

-- Reads a list. Returns it, and where it goes on behind it.
local function texts_argument(args, at)
  local count, texts = count_argument(args[at]), {}
  for number = 1, count do
    texts[number] = text_argument(args[at + number], 'text')
  end
  return texts, at + 1 + count
end

-- Reads a list as a set, nil for an empty one, which stands for anything. Returns it, and where it goes on behind it.
local function set_argument(args, at)
  local texts, next_at = texts_argument(args, at)
  local set = #texts > 0 and {} or nil
  for _, text in ipairs(texts) do
    set[text] = true
  end
  return set, next_at
end
