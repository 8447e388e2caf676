-- What a store needs before it is used: written once, by whoever comes first.

-- ffsuper_install_partitions: write the numbers of partitions where there are none, all at once.
-- KEYS  1 config  hash
-- ARGV  1 flows    whole numbers, stored as they are
--       2 budgets
--       3 quotas
-- Replies  ok('installed')  ok('kept') when there are some already
-- Refuses  invalid_input
register('ffsuper_install_partitions', function(keys, args)
  local config = keys[1]
  local flows, budgets, quotas = text_argument(args[1], 'flows'), text_argument(args[2], 'budgets'), args[3]
  text_argument(quotas, 'quotas')
  if redis.call('EXISTS', config) == 1 then
    return ok('kept')
  end
  redis.call('HSET', config, 'num_flow_partitions', flows, 'num_budget_partitions', budgets,
    'num_quota_partitions', quotas)
  return ok('installed')
end)
