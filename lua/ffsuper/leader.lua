-- Who leads: of all engines on a store, the one that sweeps. The record never goes, so that terms never repeat.

-- ffsuper_lead: take or keep the lead.
-- KEYS  1 leader  hash  holder, term, expires_at
-- ARGV  1 holder  tells one engine from all others, for ever
--       2 ttl_ms  integer > 0: how long the lead lasts without being kept
-- Replies  ok('leading', term)  ok('following', holder, remaining_ms), when another one leads
-- Refuses  invalid_input
register('ffsuper_lead', function(keys, args)
  local leader, holder, ttl_ms = keys[1], text_argument(args[1], 'holder'), integer_argument(args[2], 'ttl_ms')
  local record = redis.call('HMGET', leader, 'holder', 'term', 'expires_at')
  local now_ms = server_time_ms()
  local remaining_ms = stored_number(record[3]) - now_ms
  if remaining_ms > 0 and record[1] ~= holder then
    return ok('following', record[1] or '', tostring(remaining_ms))
  end
  local term = stored_number(record[2])
  if remaining_ms <= 0 or record[1] ~= holder then
    term = term + 1
  end
  redis.call('HSET', leader, 'holder', holder, 'term', tostring(term), 'expires_at', tostring(now_ms + ttl_ms))
  return ok('leading', tostring(term))
end)

-- ffsuper_stop_leading: give the lead up, if the caller has it.
-- KEYS  1 leader  hash  holder, term, expires_at
-- ARGV  1 holder  as given when it took the lead
-- Replies  ok(1) when given up, ok(0) when it was another's
register('ffsuper_stop_leading', function(keys, args)
  if redis.call('HGET', keys[1], 'holder') ~= args[1] then
    return ok(0)
  end
  redis.call('HSET', keys[1], 'expires_at', '0')
  return ok(1)
end)
