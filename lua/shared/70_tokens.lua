-- Waitpoint tokens: '<kid>:<40 hex digits>', the HMAC-SHA1 of '<waitpoint id>|<waitpoint key>|<created_at>'.
-- Source: RFC 2104, with the one hash that the server offers to a script.

local HMAC_BLOCK_BYTES = 64
local DIGEST_CHARACTERS = 40

-- The protocol's reading of two hex digits: whatever tonumber takes, so ' 1' and '+1' are 1, and '-1' is 0.
local function byte_of_hex(pair)
  local byte = tonumber(pair, 16)
  return byte and string.char(byte % 256)
end

-- Returns the bytes, or nil: a pair that is no byte stays as it is and makes the result too long.
local function decode_hex(text)
  local bytes = string.gsub(text, '..', byte_of_hex)
  return #bytes * 2 == #text and bytes or nil
end

-- Every byte of a block, exclusive-or the pad. Bit by bit, because the bit library is Redis' own and not everywhere.
local function exclusive_or(block, pad)
  local padded = string.gsub(block, '.', function(character)
    local byte, result, bit = string.byte(character), 0, 1
    for _ = 1, 8 do
      if math.floor(byte / bit) % 2 ~= math.floor(pad / bit) % 2 then
        result = result + bit
      end
      bit = bit * 2
    end
    return string.char(result)
  end)
  return padded
end

-- Hex -> {inner, outer}, the secret's two padded blocks. They cost more than all the rest of a token, and there are
-- only as many secrets as the operator has set since the library was loaded.
local padded_secrets = {}

-- Returns the padded blocks of a secret, or nil when it is no hex.
local function read_secret(hex)
  if padded_secrets[hex] then
    return padded_secrets[hex]
  end
  local secret = decode_hex(hex)
  if not secret then
    return nil
  end
  if #secret > HMAC_BLOCK_BYTES then
    secret = decode_hex(redis.sha1hex(secret))
  end
  local block = secret .. string.rep('\0', HMAC_BLOCK_BYTES - #secret)
  padded_secrets[hex] = { inner = exclusive_or(block, 0x36), outer = exclusive_or(block, 0x5c) }
  return padded_secrets[hex]
end

local function token_digest(secret, waitpoint_id, waitpoint_key, created_at)
  local message = waitpoint_id .. '|' .. waitpoint_key .. '|' .. created_at
  return redis.sha1hex(secret.outer .. decode_hex(redis.sha1hex(secret.inner .. message)))
end

-- Returns the key id and the secret that sign new tokens, or nil and the code to refuse with.
local function signing_secret(hmac_secrets)
  if not is_set(hmac_secrets) then
    return nil, 'invalid_keys_missing_hmac'
  end
  local kid = redis.call('HGET', hmac_secrets, 'current_kid')
  local hex = kid and redis.call('HGET', hmac_secrets, 'secret:' .. kid)
  if not hex then
    return nil, 'hmac_secret_not_initialized'
  end
  local secret = read_secret(hex)
  if not secret then
    return nil, 'invalid_secret'
  end
  return kid, secret
end

local function mint_token(kid, secret, waitpoint_id, waitpoint_key, created_at)
  return kid .. ':' .. token_digest(secret, waitpoint_id, waitpoint_key, created_at)
end

-- Takes the same time wherever two digests of DIGEST_CHARACTERS differ.
local function same_digest(given, expected)
  local given_bytes = { string.byte(given, 1, DIGEST_CHARACTERS) }
  local expected_bytes = { string.byte(expected, 1, DIGEST_CHARACTERS) }
  local difference = 0
  for position = 1, DIGEST_CHARACTERS do
    local distance = given_bytes[position] - expected_bytes[position]
    difference = difference + distance * distance
  end
  return difference == 0
end

-- Returns nil for a token of this waitpoint, else the code to refuse with.
-- created_at: the waitpoint's, a number; it is signed in its text form.
local function token_fault(hmac_secrets, token, waitpoint_id, waitpoint_key, created_at, now_ms)
  if not is_set(hmac_secrets) then
    return 'invalid_keys_missing_hmac'
  end
  if not is_set(token) then
    return 'missing_token'
  end
  local colon = string.find(token, ':', 1, true)
  if not colon or colon == 1 or #token - colon ~= DIGEST_CHARACTERS then
    return 'invalid_token'
  end
  local kid = string.sub(token, 1, colon - 1)
  local known = redis.call('HMGET', hmac_secrets, 'current_kid', 'secret:' .. kid, 'expires_at:' .. kid)
  local current_kid, hex, expires_at = known[1], known[2], tonumber(known[3])
  if not current_kid then
    return 'hmac_secret_not_initialized'
  end
  if not hex then
    return 'invalid_token'
  end
  if kid ~= current_kid and (not expires_at or expires_at <= 0 or expires_at < now_ms) then
    return 'token_expired'
  end
  local secret = read_secret(hex)
  if not secret then
    return 'invalid_secret'
  end
  local expected = token_digest(secret, waitpoint_id, waitpoint_key, created_at)
  return not same_digest(string.sub(token, colon + 1), expected) and 'invalid_token' or nil
end
