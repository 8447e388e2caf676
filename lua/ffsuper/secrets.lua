-- The secrets that sign waitpoint tokens, where no server has installed any.

-- ffsuper_install_secret: make a secret the current one of a partition that has none.
-- KEYS  1 hmac_secrets  hash  kid -> secret, and the current kid
-- ARGV  1 kid
--       2 secret  hex
-- Replies  ok('installed')  ok('kept') when there is one already
register('ffsuper_install_secret', function(keys, args)
  local hmac_secrets, kid, secret = keys[1], args[1], args[2]
  if redis.call('HEXISTS', hmac_secrets, 'current_kid') == 1 then
    return ok('kept')
  end
  redis.call('HSET', hmac_secrets, 'current_kid', kid, 'secret:' .. kid, secret)
  return ok('installed')
end)
