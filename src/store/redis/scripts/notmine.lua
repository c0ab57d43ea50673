-- Shared beginning of the scripts that answer whose the key is: 'notmine' nobody's, {'notmine', value} that value's
-- (foreign values are cut: they may be long), {'notmine', false} a key of another type. An error reply that is not
-- about the type is answered as it is.
local function not_mine(held)
  if not held then return 'notmine' end
  if type(held) == 'string' then return {'notmine', string.sub(held, 1, 256)} end
  if string.find(held.err, 'WRONGTYPE', 1, true) then return {'notmine', false} end
  return held
end

