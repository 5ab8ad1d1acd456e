"""Identity `Open`: the id in the request is believed."""

import structlog
from typing_extensions import override

from otaflux_server.identities import Identifier, Identity, Scope

log = structlog.get_logger(__name__)

_ANYBODY = Identity(None, None)


class Open(Identifier):
    """Whoever reaches the device port may be any device. For a network that is trusted."""

    @override
    def identify(self, scope: Scope) -> Identity:
        return _ANYBODY

    @override
    async def start(self) -> None:
        log.warning(
            "identity Open: whoever reaches the device port may be any device; set "
            "OTAFLUX_IDENTITY__KIND unless you trust that network"
        )
