-- Renewal of several leases in one call. It leaves the keys that the protocol's renewals leave one by one.

-- lease: of the call's arguments execution_id, attempt_index, attempt_id, lease_id, lease_epoch
local function renew_one(call, execution_id, attempt_index, attempt_id, lease_id, lease_epoch)
  local prefix = exec_key(call.tag, execution_id, '')
  local core = prefix .. 'core'
  require_renewable(core, prefix .. 'lease:history', attempt_index, attempt_id, lease_id, lease_epoch, call.now_ms)
  write_renewal(core, prefix .. 'lease:current', call.lease_expiry, execution_id, call.renewal)
  return 1
end

-- ffsuper_renew: move the expiry of held leases of one partition forward.
-- KEYS  1 lease_expiry  zset    execution id -> lease expiry
--       2 noop          string  not used: it never exists, so that a cluster refuses the call while it moves the slot
-- ARGV  1 lease_ttl_ms            integer
--       2 lease_history_grace_ms  integer; how long the leases' keys outlive the expiry
--       3 leases  N times five: execution_id, attempt_index, attempt_id, lease_id, lease_epoch
-- Replies  ok(expires_at_ms, then for each lease): 1 when it was renewed; or a refusal, as ff_renew_lease's; or a list of -1
--          and the error that has stopped it
-- Refuses  invalid_input
register('ffsuper_renew', function(keys, args)
  require_keys(keys, 2)
  local ttl_ms = integer_argument(args[1], 'lease_ttl_ms')
  local grace_ms = integer_argument(args[2], 'lease_history_grace_ms')
  local now_ms = server_time_ms()
  local renewal = new_renewal(ttl_ms, grace_ms, now_ms)
  local call = { tag = tag_of(keys[1]), lease_expiry = keys[1], now_ms = now_ms, renewal = renewal }
  local reply = ok(renewal.expires_at)
  for position = 3, #args, 5 do
    local done, answer = pcall(renew_one, call, args[position], args[position + 1], args[position + 2],
      args[position + 3], args[position + 4])
    if not done then
      answer = type(answer) == 'table' and answer.refusal or { -1, error_text(answer) }
    end
    reply[#reply + 1] = answer
  end
  return reply
end)
