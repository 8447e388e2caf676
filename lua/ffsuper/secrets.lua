-- The secrets that sign waitpoint tokens: installed where there are none, and changed.

-- ffsuper_install_secret: make a secret the current one of a partition that has none, or has lost it.
-- KEYS  1 hmac_secrets  hash  kid -> secret, and the current kid
-- ARGV  1 kid
--       2 secret  hex
-- Replies  ok('installed')  ok('repaired')  ok('kept') when there is one already
register('ffsuper_install_secret', function(keys, args)
  local hmac_secrets, kid, secret = keys[1], args[1], args[2]
  local current_kid = redis.call('HGET', hmac_secrets, 'current_kid')
  if current_kid and redis.call('HSETNX', hmac_secrets, 'secret:' .. current_kid, secret) == 0 then
    return ok('kept')
  elseif current_kid then
    return ok('repaired')
  end
  redis.call('HSET', hmac_secrets, 'current_kid', kid, 'secret:' .. kid, secret)
  return ok('installed')
end)

-- Removes the secrets whose time is over, as it was when their tokens expired.
-- stored: the hash, name -> value
local function drop_expired(hmac_secrets, stored, now_ms)
  for name, value in pairs(stored) do
    local kid = string.match(name, '^expires_at:(.+)$')
    if kid and kid ~= stored.current_kid and not ((tonumber(value) or 0) > now_ms) then
      redis.call('HDEL', hmac_secrets, name, 'secret:' .. kid)
    end
  end
end

-- ffsuper_rotate_secret: make another secret the current one of a partition. Tokens of the former one stay valid for a
-- while. A repeat is harmless.
-- KEYS  1 hmac_secrets  hash    kid -> secret, the current kid, and until when the former ones are good
--       2 lock          string  there while a server of the protocol's reference rotates
-- ARGV  1 kid
--       2 secret    hex
--       3 grace_ms  integer > 0
-- Replies  ok('rotated')  ok('kept') when it is the current one already  ok('in_progress') while the lock is there
-- Refuses  invalid_input  kid_in_use (with another secret)
register('ffsuper_rotate_secret', function(keys, args)
  local hmac_secrets, lock, kid, secret = keys[1], keys[2], text_argument(args[1], 'kid'), args[2]
  local grace_ms, now_ms, stored = integer_argument(args[3], 'grace_ms'), server_time_ms(), {}
  text_argument(secret, 'secret')
  if redis.call('EXISTS', lock) == 1 then
    return ok('in_progress')
  end
  local flat = redis.call('HGETALL', hmac_secrets)
  for position = 1, #flat, 2 do
    stored[flat[position]] = flat[position + 1]
  end
  local former, known = stored.current_kid, stored['secret:' .. kid]
  if is_set(known) and known ~= secret then
    refuse('kid_in_use', kid)
  elseif former == kid and is_set(known) then
    return ok('kept')
  end

  drop_expired(hmac_secrets, stored, now_ms)
  if former and former ~= kid then
    local expires_at = tostring(now_ms + grace_ms)
    redis.call('HSET', hmac_secrets, 'previous_kid', former, 'previous_expires_at', expires_at,
      'expires_at:' .. former, expires_at)
  end
  redis.call('HSET', hmac_secrets, 'current_kid', kid, 'secret:' .. kid, secret)
  redis.call('HDEL', hmac_secrets, 'expires_at:' .. kid)
  return ok('rotated')
end)
