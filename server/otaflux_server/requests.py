"""A device's request, read from the ASGI scope; nothing is parsed before it is asked for."""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_plus

from otaflux_policy.devices import InvalidDeviceId, device_id
from otaflux_server.identities import Identity
from otaflux_server.refusals import Refusal
from otaflux_server.replies import Refused
from otaflux_server.responses import Disconnected

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_DRAINED = 4
"""A body that is too large is read up to so many times the limit, so that the client, which
still sends, gets the answer instead of a reset connection."""


class Request:
    """One request, of somebody who is known.

    `identity` says which devices it may speak for, `namespace` is theirs; `prefix` is the path
    before `path` (`/t/<ns>`).
    """

    __slots__ = (
        "_body",
        "_parameters",
        "_receive",
        "identity",
        "namespace",
        "path",
        "prefix",
        "scope",
    )

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Receive,
        identity: Identity,
        namespace: str,
        prefix: str,
        path: str,
    ) -> None:
        self.scope = scope
        self.identity = identity
        self.namespace = namespace
        self.prefix = prefix
        self.path = path
        self._receive = receive
        self._parameters: dict[str, str] | None = None
        self._body = b""

    @property
    def method(self) -> str:
        """GET, HEAD, POST, …"""
        method: str = self.scope["method"]
        return method

    def header(self, name: bytes) -> str | None:
        """The header of this lower-case name; of several the first."""
        for key, value in self.scope["headers"]:
            if key == name:
                text: str = value.decode("latin-1")
                return text
        return None

    def parameter(self, name: str) -> str | None:
        """A query parameter; None where it is missing or empty.

        Raises:
            Refused: a parameter is given twice, so that nobody can tell which one counts.
        """
        parameters = self._parameters
        if parameters is None:
            parameters = self._parameters = _parse_query(self.scope["query_string"])
        return parameters.get(name) or None

    def text_parameter(self, name: str, limit: int) -> str | None:
        """A parameter of at most `limit` printable characters. Raises Refused."""
        value = self.parameter(name)
        return None if value is None else check_text(name, value, limit)

    def device(self, default: str | None = None) -> str:
        """The parameter `device`, else the identity's only device, else `default`.

        Raises:
            Refused: there is none of them, or it is no device id.
        """
        value = self.parameter("device") or self.identity.sole or default
        if value is None:
            raise Refused(400, "the parameter is missing: write ?device=ID", field="device")
        return check_device(value)

    def named_device(self, value: object) -> str:
        """The `device` of a body; None: the identity's only device. Raises Refused."""
        return check_device(self.identity.sole if value is None else value)

    def base_url(self, public_url: str | None) -> str:
        """What download URLs begin with: the setting, else how the client reached us."""
        if public_url is None:
            host = self.header(b"host")
            if host is None or not _HOST.fullmatch(host):
                address, port = self.scope["server"]
                host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            public_url = f"{self.scope['scheme']}://{host}"
        return public_url + self.prefix

    async def read(self, limit: int) -> None:
        """Reads the body, for `json`. Raises Refused: it is larger than `limit` bytes."""
        body = bytearray()
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected("the client went away")
            part = message.get("body", b"")
            size += len(part)
            if size <= limit:
                body += part
            if not message.get("more_body", False) or size > limit * _DRAINED:
                break
        if size > limit:
            raise Refused(
                413, f"the body is larger than {limit} bytes", reason=Refusal.BODY_TOO_LARGE
            )
        self._body = bytes(body)

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises Refused: it is none."""
        try:
            content = json.loads(self._body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise Refused(400, "the body is not JSON") from None
        if not isinstance(content, dict):
            raise Refused(400, "the body is not a JSON object")
        return content


def check_device(value: object, field: str = "device") -> str:
    """`value` as a device id. Raises Refused, naming the field."""
    try:
        return device_id(value if isinstance(value, str) else "")
    except InvalidDeviceId as error:
        raise Refused(400, str(error), field=field) from None


def check_text(name: str, value: object, limit: int) -> str:
    """`value` as a text of 1 to `limit` printable characters. Raises Refused, naming the field."""
    if not isinstance(value, str):
        raise Refused(400, "must be text", field=name)
    if not 0 < len(value) <= limit:
        raise Refused(400, f"must have 1 to {limit} characters", field=name)
    if not value.isprintable():
        raise Refused(400, "must hold printable characters only", field=name)
    return value


def _parse_query(query: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    if not query:
        return found
    for part in query.decode("latin-1").split("&"):
        name, _, value = part.partition("=")
        if "%" in part or "+" in part:
            name, value = unquote_plus(name), unquote_plus(value)
        if name in found:
            raise Refused(400, "the parameter is given twice", field=name[:64])
        found[name] = value
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
