"""SharedBuckets in Redis: a level and its time for each bucket, gone once it must be full."""

from collections.abc import Mapping

from schemas import redis_names as names
from schemas.errors import Unavailable
from schemas.redis_link import FAILURES, connect, leave_if_cancelled
from server.limits.bucket import Drawn

DRAW = """
-- KEYS: buckets. ARGV, for each: what was drawn, capacity, the gateway's own level, for a bucket that is not there.
-- Returns their levels.
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local levels = {}
for i, key in ipairs(KEYS) do
  local drawn, capacity, level = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local kept = redis.call('GET', key)
  if kept then
    local kept_level, kept_ms = string.match(kept, '^(%S+) (%S+)$')
    local flown_in = math.max(0, now_ms - tonumber(kept_ms)) * capacity / 60000
    level = math.min(capacity, math.min(capacity, tonumber(kept_level) + flown_in) - drawn)
  end
  local full_in_ms = math.ceil((capacity - level) * 60000 / capacity)
  redis.call('SET', key, string.format('%.6f %.0f', level, now_ms), 'PX', full_in_ms + 1000)
  levels[i] = string.format('%.6f', level)
end
return levels
"""


class RedisBuckets:
    """See SharedBuckets. Has a connection of its own, so that the queue never waits for it.

    Raises ConfigError for a bad URL.
    """

    def __init__(self, url: str) -> None:
        self._client = connect(url)
        self._draw = self._client.register_script(DRAW)

    async def draw(self, drawn: Mapping[str, Drawn]) -> list[float]:
        """See SharedBuckets."""
        keys = [names.bucket(name) for name in drawn]
        args = [number for one in drawn.values() for number in (one.amount, one.capacity, one.level)]
        try:
            levels = await self._draw(keys=keys, args=args)
        except FAILURES as error:
            raise Unavailable("The shared rate limits cannot be reached.") from error
        leave_if_cancelled()
        return [float(level) for level in levels]

    async def close(self) -> None:
        """See SharedBuckets."""
        await self._client.aclose()
