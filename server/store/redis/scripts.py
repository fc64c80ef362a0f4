"""The Lua that runs inside the server: reading at one moment, and comparing before writing.

What is compared and written is decided in Python; megabytes never come this way. Both take commands
as a flat list, each as the number of its parts and the parts.

The two kinds of WRITE differ in one thing: what frees memory, or is needed to go on, runs also when
there is none left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Part = str | bytes | int | float
Command = Sequence[Part]

# The process of the server: changes when it restarts and when a replica is promoted.
_EPOCH = "redis.call('INFO', 'server'):match('run_id:(%w+)')"

READ = f"""#!lua flags=no-writes
local out, i = {{{_EPOCH}, redis.call('TIME')}}, 1
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  out[#out + 1] = redis.call(unpack(ARGV, i + 1, i + n))
  i = i + n + 1
end
return out
"""

# How long an applied operation is known: longer than any client tries again by itself.
_KNOWN_SECONDS = 600

# Returns 0 when it was applied, now or by an earlier try; -1 when another process answers than the
# one that was read from; otherwise the number of the check that failed. KEYS[1] is the operation's.
_WRITE = f"""
if redis.call('EXPIRE', KEYS[1], {_KNOWN_SECONDS}) == 1 then return 0 end
if {_EPOCH} ~= ARGV[1] then return -1 end
local i = 3
for check = 1, tonumber(ARGV[2]) do
  local n = tonumber(ARGV[i + 1])
  local found = redis.call(unpack(ARGV, i + 2, i + n + 1))
  if tostring(found or '') ~= ARGV[i] then return check end
  i = i + n + 2
end
local verbs = {{}}
function verbs.KEEP(holders, session, sizes, field, size, ...)
  redis.call('SADD', holders, session)
  redis.call('HSET', sizes, field, size)
  for _, chunk in ipairs({{...}}) do redis.call('PERSIST', chunk) end
end
function verbs.DROP(holders, session, sizes, field, ...)
  redis.call('SREM', holders, session)
  if redis.call('EXISTS', holders) == 0 then
    redis.call('HDEL', sizes, field)
    redis.call('UNLINK', ...)
  end
end
function verbs.DISCARD(...)
  for _, chunk in ipairs({{...}}) do
    if redis.call('TTL', chunk) >= 0 then redis.call('UNLINK', chunk) end
  end
end
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  local verb = verbs[ARGV[i + 1]]
  if verb then verb(unpack(ARGV, i + 2, i + n)) else redis.call(unpack(ARGV, i + 1, i + n)) end
  i = i + n + 1
end
redis.call('SET', KEYS[1], '', 'EX', {_KNOWN_SECONDS})
return 0
"""

WRITE = "#!lua\n" + _WRITE
WRITE_WHEN_FULL = "#!lua flags=allow-oom\n" + _WRITE

# A number that is never given twice. It follows the server's clock (microseconds), so that it goes
# on growing when a failover has lost the last ones that were given.
NUMBER = """#!lua flags=allow-oom
local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[1]) or 0)
local number = math.max(last + 1, time[1] * 1000000 + time[2])
redis.call('SET', KEYS[1], string.format('%.0f', number))
return number
"""

# Takes ARGV[1] from a bucket that holds ARGV[2] at most and gets ARGV[3] a second; ARGV[4] is the
# time in seconds, or empty for the server's. What is left comes back as text, for Lua's numbers
# would be cut to whole ones. A bucket that is full by itself needs no key. KEYS[2] is this draw's:
# tried again, it takes nothing and answers as before. A draw of nothing only looks, as often as it
# likes.
DRAW = f"""#!lua flags=allow-oom
local known = redis.call('GET', KEYS[2])
if known then return known end
local amount, capacity, rate = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[4])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1000000
end
local level = capacity
local bucket = redis.call('HMGET', KEYS[1], 'level', 'time')
if bucket[1] then
  level = math.min(capacity, bucket[1] + math.max(0, now - bucket[2]) * rate)
end
local left = level - amount
local level_text, time_text = string.format('%.17g', left), string.format('%.17g', now)
redis.call('HSET', KEYS[1], 'level', level_text, 'time', time_text)
redis.call('EXPIRE', KEYS[1], math.min(86400, math.ceil((capacity - left) / rate) + 1))
if amount ~= 0 then redis.call('SET', KEYS[2], level_text, 'EX', {_KNOWN_SECONDS}) end
return level_text
"""


def flat(commands: Iterable[Command]) -> list[Part]:
    """Commands as the scripts take them."""
    parts: list[Part] = []
    for command in commands:
        parts += [len(command), *command]
    return parts


def in_pieces(start: Command, arguments: Sequence[Part], size: int = 1000) -> list[Command]:
    """One command for each `size` arguments: Lua passes only some thousands to a call."""
    return [[*start, *arguments[at : at + size]] for at in range(0, len(arguments), size)]
