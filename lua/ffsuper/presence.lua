-- Presence: the alive key of a worker instance, renewed and released only by the process that holds it.

-- ffsuper_renew_alive: move the expiry of the alive key forward, if the caller still holds it.
-- KEYS  1 alive  string  the holder's description
-- ARGV  1 holder  the text that the caller stored
--       2 ttl_ms  integer > 0
-- Replies  ok(1) when renewed, ok(0) when the key is gone or another's
-- Refuses  invalid_input
register('ffsuper_renew_alive', function(keys, args)
  local ttl_ms = integer_argument(args[2], 'ttl_ms')
  if redis.call('GET', keys[1]) ~= args[1] then
    return ok(0)
  end
  return ok(redis.call('PEXPIRE', keys[1], ttl_ms))
end)

-- ffsuper_replace_alive: put a new holder in the place of one that is known to be dead.
-- KEYS  1 alive  string  the holder's description
-- ARGV  1 dead_holder  the text found there; empty for a key that has just gone
--       2 holder       the text to store
--       3 ttl_ms       integer > 0
-- Replies  ok(1) when replaced, ok(0) when somebody else was quicker
-- Refuses  invalid_input
register('ffsuper_replace_alive', function(keys, args)
  local ttl_ms = integer_argument(args[3], 'ttl_ms')
  if (redis.call('GET', keys[1]) or '') ~= args[1] then
    return ok(0)
  end
  redis.call('SET', keys[1], args[2], 'PX', ttl_ms)
  return ok(1)
end)

-- ffsuper_release_alive: delete the alive key, if the caller still holds it.
-- KEYS  1 alive  string  the holder's description
-- ARGV  1 holder  the text that the caller stored
-- Replies  ok(1) when deleted, ok(0) when the key is gone or another's
register('ffsuper_release_alive', function(keys, args)
  if redis.call('GET', keys[1]) ~= args[1] then
    return ok(0)
  end
  return ok(redis.call('DEL', keys[1]))
end)
