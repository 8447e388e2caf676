-- Waitpoints outside a suspension: hand one out before suspending, close one.

-- ff_create_pending_waitpoint: hand out a waitpoint and its token before the execution suspends on it.
-- KEYS  1 core               hash  the execution record; read only
--       2 waitpoint          hash
--       3 pending_wp_expiry  zset  waitpoint id -> expires_at
--       4 hmac_secrets       hash  the secrets that sign tokens
-- ARGV  1 execution_id
--       2 attempt_index  compared as text
--       3 waitpoint_id
--       4 waitpoint_key
--       5 expires_at     number, ms; may be past
-- Replies  ok(waitpoint_id, waitpoint_key, token)
-- Refuses  execution_not_found  execution_not_active  no_active_lease  stale_lease  waitpoint_already_exists
--          invalid_keys_missing_hmac  hmac_secret_not_initialized  invalid_secret  invalid_input
register('ff_create_pending_waitpoint', function(keys, args)
  local core, waitpoint, pending_wp_expiry, hmac_secrets = keys[1], keys[2], keys[3], keys[4]
  local execution_id, attempt_index = args[1], args[2]
  local record = require_execution(core, 'lifecycle_phase', 'ownership_state', 'current_attempt_index',
    'terminal_outcome', 'current_lease_epoch')
  if record[1] ~= 'active' then
    refuse('execution_not_active', record[4] or '', record[5] or '')
  end
  if record[2] ~= 'leased' then
    refuse('no_active_lease')
  end
  if record[3] ~= attempt_index then
    refuse('stale_lease')
  end
  local state = redis.call('HGET', waitpoint, 'state')
  if state == 'pending' or state == 'active' then
    refuse('waitpoint_already_exists')
  end
  local kid, secret = signing_secret(hmac_secrets)
  if not kid then
    refuse(secret)
  end
  local waitpoint_id = text_argument(args[3], 'waitpoint_id')
  local waitpoint_key = text_argument(args[4], 'waitpoint_key')
  local expires_at_ms = score_argument(args[5], 'expires_at')

  local now_ms = server_time_ms()
  local token = mint_token(kid, secret, waitpoint_id, waitpoint_key, now_ms)
  redis.call('HSET', waitpoint,
    'waitpoint_id', waitpoint_id,
    'execution_id', execution_id,
    'attempt_index', attempt_index,
    'suspension_id', '',
    'waitpoint_key', waitpoint_key,
    'waitpoint_token', token,
    'state', 'pending',
    'created_at', now_ms,
    'activated_at', '',
    'satisfied_at', '',
    'closed_at', '',
    'expires_at', args[5],
    'close_reason', '',
    'signal_count', '0',
    'matched_signal_count', '0',
    'last_signal_at', '')
  redis.call('ZADD', pending_wp_expiry, expires_at_ms, waitpoint_id)
  return ok(waitpoint_id, waitpoint_key, token)
end)

-- Takes a waitpoint that is not open out of the expiry index. The reference leaves it there, where the sweep finds it
-- again in every round.
local function forget_pending(pending_wp_expiry, waitpoint_id)
  if pending_wp_expiry and waitpoint_id then
    redis.call('ZREM', pending_wp_expiry, waitpoint_id)
  end
end

-- ff_close_waitpoint: close a waitpoint that was never used. The execution stays as it is.
-- KEYS  1 core               hash  not touched
--       2 waitpoint          hash
--       3 pending_wp_expiry  zset  loses the waitpoint whatever the reply
-- ARGV  1 waitpoint_id
--       2 reason        absent for proactive_close
-- Replies  ok()  ok('already_closed')
-- Refuses  waitpoint_not_found  waitpoint_not_open  invalid_input
register('ff_close_waitpoint', function(keys, args)
  local waitpoint, pending_wp_expiry = keys[2], keys[3]
  local state = redis.call('HGET', waitpoint, 'state')
  if state == 'closed' or state == 'expired' then
    forget_pending(pending_wp_expiry, args[1])
    return ok('already_closed')
  end
  if state ~= 'pending' and state ~= 'active' then
    forget_pending(pending_wp_expiry, args[1])
    refuse((state or redis.call('EXISTS', waitpoint) == 1) and 'waitpoint_not_open' or 'waitpoint_not_found')
  end
  local waitpoint_id = text_argument(args[1], 'waitpoint_id')
  require_keys(keys, 3)

  redis.call('HSET', waitpoint,
    'state', 'closed',
    'closed_at', server_time_ms(),
    'close_reason', args[2] or 'proactive_close')
  redis.call('ZREM', pending_wp_expiry, waitpoint_id)
  return ok()
end)
