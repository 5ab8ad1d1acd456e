"""Who asks: one way for all protocols, chosen by `settings.identity`.

An `Identifier` looks at the connection and the headers of a request, and says which devices of
which namespace it may speak for; `device_app` holds every request to that. The id that a request
names is never evidence of itself, but with `Open`.
"""

from abc import ABC, abstractmethod
from collections.abc import Container, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

from otaflux_server.refusals import Refusal
from otaflux_server.replies import Headers

Scope = MutableMapping[str, Any]
"""An ASGI scope; the client's certificates are where the ASGI TLS extension has them."""


class Unidentified(Exception):
    """It is nobody who is known; the message is for the one who asks."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """Which devices a request may speak for.

    `namespace` is theirs; None: any, the one that the path names. `devices` holds their ids; None:
    all there are. `sole` is the only one, where there is one: a request need not name it.
    """

    namespace: str | None
    devices: Container[str] | None
    sole: str | None = None

    def permits(self, device: str) -> bool:
        """Whether the device is one of them, at this moment."""
        return self.devices is None or device in self.devices

    @classmethod
    def of_device(cls, namespace: str, device: str) -> "Identity":
        """That of one device."""
        return cls(namespace, frozenset((device,)), device)


class Identifier(ABC):
    """One way to tell who asks. On the server's event loop only."""

    challenge: ClassVar[Headers] = ()
    """What a 401 says of how to authenticate (RFC 9110, section 11.6.1)."""

    @abstractmethod
    def identify(self, scope: Scope) -> Identity:
        """Who makes the request with this scope; its body is not there yet.

        Raises:
            Unidentified: nobody who is known.
        """

    async def start(self) -> None:  # noqa: B027  # most read nothing
        """Reads what it needs; before the first request."""

    async def run(self) -> None:  # noqa: B027  # nor has to be looked at again
        """Keeps that current, until cancelled."""


def only_header(scope: Scope, name: bytes) -> bytes | None:
    """The value of the header of this lower-case name; None: there is none.

    Raises:
        Unidentified: there are several, so that nobody can tell which one counts.
    """
    found: bytes | None = None
    for key, value in scope["headers"]:
        if key == name:
            if found is not None:
                raise Unidentified(Refusal.DUPLICATE_HEADER, "a header came more than once")
            found = value
    return found
