"""The one place through which every request to the internal API goes."""

import json
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from otaflux_server.access.callers import AccessRefusal, CallerRefused, Callers
from otaflux_server.access.refusals import AccessRefusals
from otaflux_server.metrics import Metrics
from otaflux_server.refusals import peer

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""What kubelet and Prometheus ask without a token."""
_MOST_BYTES = 8192


class Guard:
    """ASGI middleware that lets nobody but `callers` in (None: everybody), but to `OPEN_PATHS`.

    There it takes the query away from others: the detail that it asks for is not for them.
    """

    def __init__(self, app: ASGIApp, callers: Callers | None, metrics: Metrics) -> None:
        self._app = app
        self._callers = callers
        self._refusals = AccessRefusals(metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401, 403 or 503 itself, or has the application answer."""
        if self._callers is not None:
            is_open = scope["type"] == "http" and scope["path"] in OPEN_PATHS
            if not is_open or scope["query_string"]:
                try:
                    await self._callers.check(_token(scope))
                except CallerRefused as refused:
                    if not is_open:
                        await self._refuse(refused, scope, send)
                        return
                    scope = {**scope, "query_string": b""}
        await self._app(scope, receive, send)

    async def _refuse(self, refused: CallerRefused, scope: Scope, send: Send) -> None:
        status = self._refusals.note(refused.reason, peer(scope))
        body = json.dumps({"detail": str(refused)}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        if status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="otaflux"'))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _token(scope: MutableMapping[str, Any]) -> str:
    """The token of the request (RFC 6750, section 2.1). Raises CallerRefused."""
    given: list[bytes] = [
        value for name, value in scope.get("headers", ()) if name == b"authorization"
    ]
    if not given:
        raise CallerRefused(
            AccessRefusal.NO_TOKEN, "a token is wanted: Authorization: Bearer TOKEN"
        )
    scheme, _, token = given[0].partition(b" ")
    token = token.strip()
    if len(given) > 1 or scheme.lower() != b"bearer" or not 0 < len(token) <= _MOST_BYTES:
        raise CallerRefused(
            AccessRefusal.MALFORMED_HEADER, "write one header Authorization: Bearer TOKEN"
        )
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise CallerRefused(AccessRefusal.MALFORMED_HEADER, "a token is ASCII") from None
