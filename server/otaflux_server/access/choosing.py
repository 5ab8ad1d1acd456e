"""From settings: who may use the internal API."""

import ipaddress

import structlog

from otaflux_server.access.callers import Callers
from otaflux_server.access.service_accounts import ServiceAccounts, TokenReviews
from otaflux_server.access.shared_tokens import SharedToken
from otaflux_server.settings import InternalAuthentication, Settings, address

log = structlog.get_logger(__name__)


def callers(settings: Settings) -> Callers | None:
    """Who may use it; None: everybody who reaches the port."""
    chosen = settings.internal
    match chosen.authentication:
        case InternalAuthentication.SERVICE_ACCOUNT:
            reviews = TokenReviews(settings.kubeconfig, chosen.audience)
            return ServiceAccounts(chosen.service_accounts, chosen.audience, reviews)
        case InternalAuthentication.TOKEN:
            assert chosen.token_file is not None
            return SharedToken(chosen.token_file)
        case InternalAuthentication.NONE:
            return None


def warn_if_open(settings: Settings) -> None:
    """Logs that everybody may use it, unless only this host reaches it."""
    host, _ = address(settings.internal_listen)
    if settings.internal.authentication is not InternalAuthentication.NONE or _is_loopback(host):
        return
    log.warning(
        "whoever reaches the internal port may use the internal API: set "
        "OTAFLUX_INTERNAL__AUTHENTICATION, or listen on 127.0.0.1",
        listen=settings.internal_listen,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
