"""The ASGI application that devices talk to: finds the exchange, takes its steps, sends the reply.

Plain ASGI, because most requests of a fleet are polls that are answered "no".
"""

import re
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog

from otaflux_policy.decisions import Decision
from otaflux_server.artifacts import StoredArtifact
from otaflux_server.deliveries import Cut
from otaflux_server.devices import DeviceRecord
from otaflux_server.downloads import Damaged, Send, send_artifact, send_small
from otaflux_server.fleet import Fleet
from otaflux_server.protocols import Exchange, json, native
from otaflux_server.replies import Refused, Reply, text_refusal
from otaflux_server.requests import Receive, Request
from otaflux_server.responses import Disconnected
from otaflux_server.settings import NAMESPACE_PATTERN

log = structlog.get_logger(__name__)

_BEGUN = "otaflux.begun"

PROTOCOLS: tuple[Callable[[Fleet], Mapping[str, Exchange]], ...] = (
    native.exchanges,
    json.exchanges,
)

_TENANT = re.compile(rf"/t/(?P<namespace>{NAMESPACE_PATTERN.strip('^$')})(?P<path>/.*)", re.DOTALL)


class DeviceApp:
    """Routes `/…` to the default namespace and `/t/<namespace>/…` to the one named."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._namespace = fleet.settings.default_namespace
        self._max_body = fleet.settings.connections.max_body_bytes
        self._exact: dict[str, Exchange] = {}
        self._below: dict[str, Exchange] = {}
        for exchanges in PROTOCOLS:
            for path, exchange in exchanges(fleet).items():
                table = self._below if path.endswith("/") else self._exact
                if table.setdefault(path, exchange) is not exchange:
                    raise ValueError(f"two protocols claim {path}")

    @property
    def routes(self) -> Mapping[str, Exchange]:
        """Every path of every protocol; one that ends with `/` stands for all below it."""
        return {**self._exact, **self._below}

    def at_once(self, scope: MutableMapping[str, Any]) -> Reply | None:
        """The reply, where the default namespace's request needs no waiting; else None."""
        exchange = self._exact.get(scope["path"])
        if exchange is None or not exchange.at_once or scope["method"] not in exchange.methods:
            return None
        request = Request(scope, _no_body, namespace=self._namespace, prefix="", path=scope["path"])
        try:
            asking = exchange.identify(request)
        except Refused as refused:
            self._fleet.metrics.refused(refused.status)
            return exchange.refuse(refused)
        record = exchange.observe(asking)
        if record.unread:
            return None
        decision = exchange.decide(record)
        if exchange.begins(request, record, decision):
            # The claim has to be waited for: `__call__` goes on from here.
            scope.setdefault("state", {})[_BEGUN] = (exchange, request, record)
            return None
        reply = exchange.answer(request, record, decision)
        exchange.record(request, record, decision, reply, 0)
        return reply

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"devices speak HTTP, not {scope['type']}")
        begun = scope.get("state", {}).pop(_BEGUN, None)
        if begun is not None:
            exchange, request, record = begun
            # Decided again: policies may have changed since.
            await self._go_on(send, exchange, request, record, exchange.decide(record))
            return
        path = scope["path"]
        namespace, prefix = self._namespace, ""
        exchange = self._exact.get(path)
        if exchange is None:
            if tenant := _TENANT.fullmatch(path):
                namespace, path = tenant["namespace"], tenant["path"]
                prefix = f"/t/{namespace}"
            exchange = self._exact.get(path) or self._below.get(path[: path.rfind("/") + 1])
            if exchange is None:
                await self._refuse(text_refusal(Refused(404, "no such path")), send)
                return
        if scope["method"] not in exchange.methods:
            allowed = ", ".join(sorted(exchange.methods))
            refused = Refused(405, f"use {allowed}", headers=[(b"Allow", allowed.encode())])
            await self._refuse(exchange.refuse(refused), send)
            return
        request = Request(scope, receive, namespace=namespace, prefix=prefix, path=path)
        await self._answer(exchange, request, send)

    async def _answer(self, exchange: Exchange, request: Request, send: Send) -> None:
        try:
            if exchange.reads_body:
                await request.read(self._max_body)
            asking = exchange.identify(request)
        except Refused as refused:
            await self._refuse(exchange.refuse(refused), send)
            return
        record = exchange.observe(asking)
        await exchange.prepare(record)
        await self._go_on(send, exchange, request, record, exchange.decide(record))

    async def _go_on(
        self,
        send: Send,
        exchange: Exchange,
        request: Request,
        record: DeviceRecord,
        decision: Decision,
    ) -> None:
        if exchange.begins(request, record, decision):
            claimed = await self._fleet.claim(record, pins=exchange.pins)
            decision = exchange.decide(record, slot=claimed)
            if claimed and exchange.begins(request, record, decision):
                decision = exchange.decide(record, slot=False)
        reply = exchange.answer(request, record, decision)
        if reply.artifact is None or request.method == "HEAD":
            exchange.record(request, record, decision, reply, 0)
            await send_small(reply, send)
            return
        await self._deliver(exchange, request, record, decision, reply, reply.artifact, send)

    async def _deliver(
        self,
        exchange: Exchange,
        request: Request,
        record: DeviceRecord,
        decision: Decision,
        reply: Reply,
        artifact: StoredArtifact,
        send: Send,
    ) -> None:
        delivery = self._fleet.delivery(record, decision, reply)
        try:
            async with self._fleet.deliveries.running(delivery):
                await send_artifact(artifact, reply, send, delivery.count)
        except Cut:
            raise Disconnected from None  # no other way says that it is withdrawn
        except Damaged as damaged:
            await self._fleet.discard(artifact)
            if damaged.started:
                raise Disconnected from None  # the only way left to say that bytes are missing
            gone = Refused(404, "the artifact is being fetched again")
            await self._refuse(exchange.refuse(gone), send)
        finally:
            self._fleet.delivered(delivery)
            exchange.record(request, record, decision, reply, delivery.sent)

    async def _refuse(self, reply: Reply, send: Send) -> None:
        self._fleet.metrics.refused(reply.status)
        await send_small(reply, send)


async def _no_body() -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}
