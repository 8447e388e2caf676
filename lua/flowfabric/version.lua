-- ff_version: tell which version of the protocol this library speaks.
-- Replies  the version as bare text
register('ff_version', function()
  return '5'
end)
