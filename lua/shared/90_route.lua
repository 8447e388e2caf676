-- Executions that need what a worker lacks.

-- Sets an execution aside until a capable worker comes; returns whether it did.
local function block_route(core, eligible, blocked, execution_id, now)
  return (pcall(call_protocol, 'ff_block_execution_for_admission', { core, eligible, blocked },
    { execution_id, 'waiting_for_capable_worker', 'no connected worker satisfies required_capabilities', now }))
end
