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

local function register(name, body)
  redis.register_function(name, function(keys, args)
    local done, reply = pcall(body, keys, args)
    if done then
      return reply
    end
    if type(reply) == 'table' and reply.refusal then
      return reply.refusal
    end
    error(reply, 0)
  end)
end
