-- Replies: every function answers ok(...), or leaves through refuse(code, ...) from any depth.

local function ok(...)
  return { 1, 'OK', ... }
end

-- An earlier call, or the state itself, has already done what is asked.
local function already_satisfied(...)
  return { 1, 'ALREADY_SATISFIED', ... }
end

-- Nothing is rolled back: refuse before the first write.
local function refuse(...)
  error({ refusal = { 0, ... } })
end

-- The protocol's functions by name. Library ffsuper holds them too, so that its sweeps can carry one out for many
-- executions in one call; it offers none of them, since another library may.
local protocol = {}

-- flags: of the server's, absent for none
local function register(name, body, flags)
  if name:sub(1, 3) == 'ff_' then
    protocol[name] = body
    if library == 'ffsuper' then
      return
    end
  end
  local function callback(keys, args)
    local done, reply = pcall(body, keys, args)
    announce_filled()
    if done then
      return reply
    end
    if type(reply) == 'table' and reply.refusal then
      return reply.refusal
    end
    error(reply, 0)
  end
  redis.register_function({ function_name = name, callback = callback, flags = flags })
end
