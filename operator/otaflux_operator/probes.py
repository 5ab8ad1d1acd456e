"""`/healthz` and `/metrics` over HTTP."""

import time
from typing import Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from otaflux_operator.operating import Operator

STALE = 300.0
"""Seconds after which an operator that swept nothing is not healthy."""


class Probed(Protocol):
    """What is looked at."""

    @property
    def operator(self) -> Operator | None:
        """The operator, once it works."""
        ...

    @property
    def seen_at(self) -> float | None:
        """When the API server last answered one that waits for its turn (`time.monotonic`)."""
        ...


class Probes:
    """Listens on `listen` (`host:port`; empty: nowhere) as long as the async context is open."""

    def __init__(self, listen: str, probed: Probed, registry: CollectorRegistry) -> None:
        self._listen = listen
        self._probed = probed
        self._registry = registry
        self._started = time.monotonic()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "Probes":
        if self._listen:
            app = web.Application()
            app.router.add_get("/healthz", self._health)
            app.router.add_get("/metrics", self._metrics)
            self._runner = web.AppRunner(app, access_log=None)
            await self._runner.setup()
            host, _, port = self._listen.rpartition(":")
            await web.TCPSite(self._runner, host.strip("[]") or None, int(port)).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def address(self) -> str:
        """Where it listens, for those who asked for any free port."""
        assert self._runner is not None
        host, port = self._runner.addresses[0][:2]
        return f"{host}:{port}"

    async def _health(self, _: web.Request) -> web.Response:
        operator = self._probed.operator
        seen = operator.swept_at if operator is not None else self._probed.seen_at
        silent = time.monotonic() - (seen if seen is not None else self._started)
        if silent > STALE:
            why = (operator.trouble if operator is not None else "") or "it does not answer"
            return web.Response(
                status=503,
                text=f"The API server was of no use for {silent:.0f} s: {why}.\n",
            )
        return web.Response(text="ok\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
