-- Output streams of attempts: append a frame, read frames. Tailing is the client's XREAD.

-- How many frames the stream keeps at least when the caller sets no limit; whole internal nodes go beyond it.
local DEFAULT_FRAMES_KEPT = 10000

-- The largest number of frames that one read may ask for.
local MAX_FRAMES_READ = 10000

-- Refuses unless the caller holds the lease of the running attempt. Unlike require_lease it marks nothing: frames are
-- frequent, and the renewals of the same lease find out soon enough.
local function require_frame_owner(core, attempt_index, lease_id, lease_epoch, now_ms)
  local record = redis.call('HMGET', core, 'lifecycle_phase', 'ownership_state', 'lease_expires_at',
    'current_attempt_index', 'current_lease_id', 'current_lease_epoch')
  if record[1] ~= 'active' then
    refuse('stream_closed')
  end
  if record[2] == 'lease_expired_reclaimable' or record[2] == 'lease_revoked' or lease_expiry_ms(record[3]) <= now_ms
    or record[4] ~= attempt_index or record[5] ~= lease_id or record[6] ~= lease_epoch then
    refuse('stale_owner_cannot_append')
  end
end

-- The number of newest frames to keep exactly; 0 for the default.
local function frames_kept_argument(value)
  local number = number_argument(value or 0, 'retention_maxlen')
  if not is_command_integer(number) or number < 0 then
    refuse('invalid_input', 'retention_maxlen must be an integer >= 0, got: ' .. value)
  end
  return number
end

local function add_frame(frames, frames_kept, ...)
  if frames_kept == 0 then
    return redis.call('XADD', frames, 'MAXLEN', '~', DEFAULT_FRAMES_KEPT, '*', ...)
  end
  return redis.call('XADD', frames, 'MAXLEN', '=', frames_kept, '*', ...)
end

-- ff_append_frame: append one output frame of a running attempt.
-- KEYS  1 core    hash    the execution record; read only
--       2 frames  stream  the attempt's frames
--       3 meta    hash    describes the stream; made by the first frame, closed by what ends the attempt
-- ARGV  1 execution_id
--       2 attempt_index      compared as text
--       3 lease_id
--       4 lease_epoch        compared as text
--       5 frame_type
--       6 ts                 the frame's time; unset for the server's
--       7 payload            any bytes
--       8 encoding           absent for utf8
--       9 correlation_id     unset for a frame without one
--      10 source             absent for worker
--      11 retention_maxlen   integer >= 0: frames to keep exactly; 0 or absent for about 10000
--      12 attempt_id
--      13 max_payload_bytes  number; absent for 65536
-- Replies  ok(entry_id, frame_count)  the count is of all frames ever appended
-- Refuses  invalid_input  retention_limit_exceeded  stream_closed  stale_owner_cannot_append
register('ff_append_frame', function(keys, args)
  local core, frames, meta = keys[1], keys[2], keys[3]
  local execution_id, attempt_index, lease_id, lease_epoch = args[1], args[2], args[3], args[4]
  local payload, correlation_id = args[7] or '', args[9]
  if #payload > number_argument(args[13] or 65536, 'max_payload_bytes') then
    refuse('retention_limit_exceeded')
  end
  local now_ms = server_time_ms()
  require_frame_owner(core, attempt_index, lease_id, lease_epoch, now_ms)
  local stream = redis.call('HMGET', meta, 'closed_at', 'frame_count', 'total_bytes')
  if is_set(stream[1]) then
    refuse('stream_closed')
  end
  local frame_type = text_argument(args[5], 'frame_type')
  local frames_kept = frames_kept_argument(args[11])

  local ts = is_set(args[6]) and args[6] or tostring(now_ms)
  local encoding, source = args[8] or 'utf8', args[10] or 'worker'
  local entry_id
  if is_set(correlation_id) then
    entry_id = add_frame(frames, frames_kept, 'frame_type', frame_type, 'ts', ts, 'payload', payload,
      'encoding', encoding, 'source', source, 'correlation_id', correlation_id)
  else
    entry_id = add_frame(frames, frames_kept, 'frame_type', frame_type, 'ts', ts, 'payload', payload,
      'encoding', encoding, 'source', source)
  end
  -- Every meta hash of ours has closed_at, so the second look is needed for a first frame only.
  if not stream[1] and redis.call('EXISTS', meta) == 0 then
    redis.call('HSET', meta,
      'stream_id', execution_id .. ':' .. attempt_index,
      'execution_id', execution_id,
      'attempt_id', args[12] or '',
      'attempt_index', attempt_index,
      'created_at', now_ms,
      'closed_at', '',
      'closed_reason', '',
      'durability_mode', 'durable_full',
      'retention_maxlen', tostring(frames_kept),
      'last_sequence', entry_id,
      'frame_count', 1,
      'total_bytes', #payload,
      'last_frame_at', now_ms)
    return ok(entry_id, '1')
  end
  local frame_count = (tonumber(stream[2] or 0) or 0) + 1
  redis.call('HSET', meta,
    'frame_count', frame_count,
    'total_bytes', (tonumber(stream[3] or 0) or 0) + #payload,
    'last_sequence', entry_id,
    'last_frame_at', now_ms)
  return ok(entry_id, tostring(frame_count))
end)

-- Refuses with the id that XRANGE did not take. A key of another type is no caller's argument: XLEN raises for it.
local function refuse_range(frames, from_id, to_id)
  redis.call('XLEN', frames)
  if redis.pcall('XRANGE', frames, from_id, '+', 'COUNT', 1).err then
    refuse('invalid_input', 'from_id must be a stream entry id, got: ' .. from_id)
  end
  refuse('invalid_input', 'to_id must be a stream entry id, got: ' .. to_id)
end

-- ff_read_attempt_stream: read a range of frames, and whether the stream is closed.
-- KEYS  1 frames  stream  the attempt's frames
--       2 meta    hash    describes the stream
-- ARGV  1 from_id      first entry id as XRANGE takes it; absent for the oldest
--       2 to_id        last entry id; absent for the newest
--       3 count_limit  integer, 1 to 10000
-- Replies  ok(entries, closed_at, closed_reason)  entries are {id, {name, value, ...}}; the others empty while open
-- Refuses  invalid_input
register('ff_read_attempt_stream', function(keys, args)
  local frames, meta = keys[1], keys[2]
  local from_id, to_id = args[1] or '-', args[2] or '+'
  local count_limit = tonumber(args[3])
  if not count_limit or count_limit < 1 then
    refuse('invalid_input', 'count_limit must be >= 1')
  end
  if count_limit > MAX_FRAMES_READ then
    refuse('invalid_input', 'count_limit_exceeds_hard_cap')
  end
  if not is_command_integer(count_limit) then
    refuse('invalid_input', 'count_limit must be an integer, got: ' .. args[3])
  end
  local entries = redis.pcall('XRANGE', frames, from_id, to_id, 'COUNT', count_limit)
  if entries.err then
    refuse_range(frames, from_id, to_id)
  end
  local closing = redis.call('HMGET', meta, 'closed_at', 'closed_reason')
  return ok(entries, closing[1] or '', closing[2] or '')
end)
