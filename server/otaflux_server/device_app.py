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
from otaflux_server.identities import Identifier, Identity, Unidentified
from otaflux_server.protocols import Exchange, json, native
from otaflux_server.refusals import Refusal, Refusals, peer
from otaflux_server.replies import Refused, Reply, text_refusal
from otaflux_server.requests import Receive, Request
from otaflux_server.responses import Disconnected
from otaflux_server.settings import NAMESPACE_PATTERN
from otaflux_server.settings.identities import Tenancy
from otaflux_server.throttles import Throttle

log = structlog.get_logger(__name__)

_BEGUN = "otaflux.begun"

PROTOCOLS: tuple[Callable[[Fleet], Mapping[str, Exchange]], ...] = (
    native.exchanges,
    json.exchanges,
)

_TENANT = re.compile(rf"/t/(?P<namespace>{NAMESPACE_PATTERN.strip('^$')})(?P<path>/.*)", re.DOTALL)


class DeviceApp:
    """Routes `/…` and, with `Tenancy.NAMESPACE`, `/t/<namespace>/…`; asks who it is, first of all.

    Nobody gets any further than `_enter` without an identity, nor than `_identify` with that of
    another device: not even into the records.
    """

    def __init__(
        self, fleet: Fleet, identifier: Identifier, refusals: Refusals, throttle: Throttle
    ) -> None:
        self._fleet = fleet
        self._identifier = identifier
        self._refusals = refusals
        self._throttle = throttle
        self._namespace = fleet.settings.default_namespace
        self._has_tenants = fleet.settings.identity.tenancy is Tenancy.NAMESPACE
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
        """The reply, where a request without a prefix needs no waiting; else None."""
        path = scope["path"]
        exchange = self._exact.get(path)
        if exchange is None or not exchange.at_once or scope["method"] not in exchange.methods:
            return None
        try:
            request = self._enter(scope, _no_body, None, path)
            record = self._identify(exchange, request)
        except Refused as refused:
            self._note(scope, refused)
            return exchange.refuse(refused)
        if record.unread or exchange.begins(request, record, decision := exchange.decide(record)):
            # The database has to be waited for: `__call__` goes on from here.
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
            await exchange.prepare(record)
            # Decided again: policies may have changed since.
            await self._go_on(send, exchange, request, record, exchange.decide(record))
            return
        path, tenant = scope["path"], None
        exchange = self._exact.get(path)
        if exchange is None:
            if self._has_tenants and (found := _TENANT.fullmatch(path)):
                tenant, path = found["namespace"], found["path"]
            exchange = self._exact.get(path) or self._below.get(path[: path.rfind("/") + 1])
            if exchange is None:
                refused = Refused(404, "no such path", reason=Refusal.NO_SUCH_PATH)
                self._note(scope, refused)
                await send_small(text_refusal(refused), send)
                return
        try:
            if scope["method"] not in exchange.methods:
                raise _not_allowed(exchange)
            request = self._enter(scope, receive, tenant, path)
            if exchange.reads_body:
                await request.read(self._max_body)
            record = self._identify(exchange, request)
        except Refused as refused:
            await self._refuse(exchange, scope, refused, send)
            return
        await exchange.prepare(record)
        await self._go_on(send, exchange, request, record, exchange.decide(record))

    def _enter(
        self,
        scope: MutableMapping[str, Any],
        receive: Receive,
        tenant: str | None,
        path: str,
    ) -> Request:
        """The request, once it is known who makes it; nothing else of it was looked at.

        `tenant` is the namespace that the path names. Raises Refused: 401 nobody who is known,
        403 the namespace is not theirs, 429.
        """
        if self._throttle.refusing:
            self._throttle.enter(peer(scope))
        try:
            identity = self._identifier.identify(scope)
        except Unidentified as error:
            challenge = self._identifier.challenge
            raise Refused(401, str(error), headers=challenge, reason=error.reason) from None
        prefix = "" if tenant is None else f"/t/{tenant}"
        return Request(scope, receive, identity, self._namespace_of(identity, tenant), prefix, path)

    def _namespace_of(self, identity: Identity, tenant: str | None) -> str:
        asked = tenant if self._has_tenants else self._namespace
        namespace = identity.namespace or asked or self._namespace
        if asked is not None and asked != namespace:
            raise Refused(
                403, "this is not the identity of a device there", reason=Refusal.OTHER_NAMESPACE
            )
        return namespace

    def _identify(self, exchange: Exchange, request: Request) -> DeviceRecord:
        """The record of the device that asks, with what it says of itself.

        Raises Refused: not usable; 403, the identity is not that of the device; 429.
        """
        asking = exchange.identify(request)
        if asking.namespace != request.namespace or not request.identity.permits(asking.device):
            raise Refused(
                403, "this is not the identity of that device", reason=Refusal.OTHER_DEVICE
            )
        record = exchange.observe(asking)
        self._throttle.ask(record, exchange.cost)
        return record

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
        try:
            self._throttle.download(self._fleet.deliveries.of(record.key))
        except Refused as refused:
            await self._refuse(exchange, request.scope, refused, send)
            return
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
            gone = Refused(404, "the artifact is being fetched again", reason=Refusal.ARTIFACT_LOST)
            await self._refuse(exchange, request.scope, gone, send)
        finally:
            self._fleet.delivered(delivery)
            exchange.record(request, record, decision, reply, delivery.sent)

    async def _refuse(
        self, exchange: Exchange, scope: MutableMapping[str, Any], refused: Refused, send: Send
    ) -> None:
        self._note(scope, refused)
        await send_small(exchange.refuse(refused), send)

    def _note(self, scope: MutableMapping[str, Any], refused: Refused) -> None:
        address = peer(scope)
        self._refusals.note(refused.status, refused.reason, address)
        self._throttle.refused(address, refused.reason)


def _not_allowed(exchange: Exchange) -> Refused:
    allowed = ", ".join(sorted(exchange.methods))
    return Refused(
        405,
        f"use {allowed}",
        headers=[(b"Allow", allowed.encode())],
        reason=Refusal.METHOD_NOT_ALLOWED,
    )


async def _no_body() -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}
