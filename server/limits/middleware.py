"""Counts requests against their key's limit and puts the x-ratelimit headers on every answer of a generating route."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import Overloaded
from server.errors import error_response
from server.limits.rates import RateLimits

GENERATING_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})


class RateLimitMiddleware:
    """Behind authentication, which sets the tenant. Refuses before the body is read."""

    def __init__(self, app: ASGIApp, rates: RateLimits) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_generating = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in GENERATING_PATHS
        tenant = scope["state"]["tenant"] if is_generating else ""
        if not is_generating or not self._rates.apply_to(tenant):
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._rates.headers(tenant)]
            await send(message)

        try:
            self._rates.take_request(tenant)
        except Overloaded as refusal:
            await error_response(refusal)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)
