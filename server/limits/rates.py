"""Requests and tokens a minute for each key, as two token buckets, and the headers that tell how they stand.

What a request will cost in tokens is not known when it comes: an estimate is reserved, and set right by its usage once
it has ended. A request that turned out dearer leaves a debt that later ones wait for.
"""

from collections.abc import Callable

from schemas.errors import Overloaded, TooMuch
from server.limits.bucket import TokenBucket
from server.limits.key_limits import KeyLimits

RawHeaders = list[tuple[bytes, bytes]]


class RateLimits:
    """limits_of: what a tenant may take, asked at each request, for keys can be reloaded. clock: seconds, monotonic."""

    def __init__(self, limits_of: Callable[[str], KeyLimits], clock: Callable[[], float]) -> None:
        self._limits_of = limits_of
        self._clock = clock
        self._requests: dict[str, TokenBucket] = {}
        self._tokens: dict[str, TokenBucket] = {}
        self._asked: dict[str, TokenBucket] = {}

    def apply_to(self, tenant: str) -> bool:
        """Whether a tenant is limited at all."""
        limits = self._limits_of(tenant)
        return limits.requests_per_minute is not None or limits.tokens_per_minute is not None

    def take_request(self, tenant: str) -> None:
        """Count one request. Raises Overloaded when the minute's are used up, or when tokens are owed."""
        now_s = self._clock()
        requests, tokens = self._buckets(tenant)
        if requests is not None and requests.wait_s(1, now_s):
            raise _too_many("requests", requests.capacity, requests.wait_s(1, now_s))
        if tokens is not None and tokens.wait_s(1, now_s):
            raise _too_many("tokens", tokens.capacity, tokens.wait_s(1, now_s))
        if requests is not None:
            requests.take(1, now_s)

    def reserve_tokens(self, tenant: str, num_tokens: int) -> int:
        """Take the tokens that a job is thought to cost; returns what was taken. Raises Overloaded.

        A job that is thought to cost more than a minute's worth waits for a full bucket, and then runs into debt.
        """
        _, tokens = self._buckets(tenant)
        if tokens is None:
            return 0
        now_s = self._clock()
        reserved = min(num_tokens, tokens.capacity)
        if tokens.wait_s(reserved, now_s):
            raise _too_many("tokens", tokens.capacity, tokens.wait_s(reserved, now_s))
        tokens.take(reserved, now_s)
        return reserved

    def settle(self, tenant: str, reserved: int, used: int) -> None:
        """A job has ended: what it used counts, not what was reserved for it."""
        _, tokens = self._buckets(tenant)
        if tokens is not None:
            tokens.take(used - reserved, self._clock())

    def take_asked(self) -> dict[str, TokenBucket]:
        """The buckets that somebody asked since the last call, by names that are the same at every gateway."""
        asked, self._asked = self._asked, {}
        return asked

    def headers(self, tenant: str) -> RawHeaders:
        """OpenAI's x-ratelimit-* headers for the limits that are set; none where none is."""
        now_s = self._clock()
        headers: RawHeaders = []
        for what, bucket in zip(("requests", "tokens"), self._buckets(tenant), strict=True):
            if bucket is not None:
                values = {
                    "limit": str(bucket.capacity),
                    "remaining": str(bucket.remaining(now_s)),
                    "reset": format_duration(bucket.full_in_s(now_s)),
                }
                headers += [(f"x-ratelimit-{kind}-{what}".encode(), value.encode()) for kind, value in values.items()]
        return headers

    def _buckets(self, tenant: str) -> tuple[TokenBucket | None, TokenBucket | None]:
        limits = self._limits_of(tenant)
        requests = self._bucket(self._requests, tenant, limits.requests_per_minute)
        tokens = self._bucket(self._tokens, tenant, limits.tokens_per_minute)
        if requests is not None:
            self._asked[f"requests:{tenant}"] = requests
        if tokens is not None:
            self._asked[f"tokens:{tenant}"] = tokens
        return requests, tokens

    def _bucket(self, buckets: dict[str, TokenBucket], tenant: str, per_minute: int | None) -> TokenBucket | None:
        if per_minute is None:
            buckets.pop(tenant, None)
            return None
        bucket = buckets.get(tenant)
        if bucket is None:
            bucket = buckets[tenant] = TokenBucket(per_minute, self._clock())
        elif bucket.capacity != per_minute:
            bucket.resize(per_minute, self._clock())
        return bucket


def format_duration(seconds: float) -> str:
    """A time as OpenAI's headers write it: "120ms", "8.64s", "6m0s", "1h0m0s"."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 2):g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _too_many(what: str, per_minute: int, wait_s: float) -> Overloaded:
    message = f"Rate limit reached: {per_minute} {what} a minute with this key; try again in {format_duration(wait_s)}."
    return Overloaded(message, wait_s, TooMuch(f"{what}_per_minute"))
