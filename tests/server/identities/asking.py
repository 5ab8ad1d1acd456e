"""Requests as the device port hands them on, with the certificates and the peer that a test says.

So that every way of identity is asked in the same manner, and one sees what was read of a body.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from otaflux_server.device_app import DeviceApp
from otaflux_server.protocols import Exchange
from tests.server.fleets import Served

RELEASE = "1.4.0"
HEX = "0" * 64


@dataclass(frozen=True)
class Credentials:
    """What comes with a request beside the request."""

    headers: tuple[tuple[str, str], ...] = ()
    chain: tuple[str, ...] = ()
    peer: str = "127.0.0.1"


NOTHING = Credentials()


@dataclass(frozen=True)
class Asked:
    """A request: what is asked for."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""


@dataclass
class Told:
    """The reply. `read`: the body of the request was asked for."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    read: bool = False

    @property
    def answer(self) -> tuple[int, dict[str, str], bytes]:
        return self.status, self.headers, self.body


def ask(served: Served, asked: Asked, credentials: Credentials = NOTHING) -> Told:
    """Asks on the server's loop, as `http.py` does: at once where that can be, else the app."""
    app = served.server.device_app
    return served.run(_ask(app, asked, credentials))


async def _ask(app: DeviceApp, asked: Asked, credentials: Credentials) -> Told:
    told = Told()
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "https",
        "path": asked.path,
        "query_string": asked.query.encode(),
        "server": ("127.0.0.1", 8443),
        "client": (credentials.peer, 50_000),
        "state": {},
        "headers": [
            (b"host", b"updates.test"),
            *((name.lower().encode(), text.encode()) for name, text in credentials.headers),
        ],
        "extensions": {"tls": {"client_cert_chain": list(credentials.chain)}},
    }

    async def receive() -> MutableMapping[str, Any]:
        told.read = True
        return {"type": "http.request", "body": asked.body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            told.status = message["status"]
            told.headers = {
                name.decode().lower(): value.decode() for name, value in message["headers"]
            }
        else:
            told.body += message.get("body", b"")

    reply = app.at_once(scope)
    if reply is not None:
        headers = {name.decode().lower(): value.decode() for name, value in reply.headers}
        return Told(reply.status, headers, reply.body)
    await app(scope, receive, send)
    return told


def requests(app: DeviceApp, device: str, prefix: str = "") -> Iterator[Asked]:
    """A request of the device for every route and method of every protocol.

    Each names the device in all the ways that protocols know: the query and the body. A route that
    wants another way needs it here: threats without their mitigation fail until then, as they do
    not reach the device.
    """
    for path, exchange in app.routes.items():
        for method in sorted(exchange.methods):
            yield _request(path, exchange, method, device, prefix)


def _request(path: str, exchange: Exchange, method: str, device: str, prefix: str) -> Asked:
    below = HEX if path.endswith("/") else ""
    body = {"device": device, "release": RELEASE, "state": "Installing"}
    return Asked(
        method,
        f"{prefix}{path}{below}",
        query=f"device={device}",
        body=json.dumps(body).encode() if exchange.reads_body else b"",
    )
