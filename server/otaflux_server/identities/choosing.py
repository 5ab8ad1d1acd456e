"""Which way of identity the settings say."""

from otaflux_server.identities import Identifier
from otaflux_server.identities.certificates import Certificates, Names
from otaflux_server.identities.forwarding import ForwardedCertificates
from otaflux_server.identities.opening import Open
from otaflux_server.identities.token_files import TokenFiles
from otaflux_server.identities.tokens import GroupsOf, Tokens
from otaflux_server.metrics import Metrics
from otaflux_server.settings import Settings
from otaflux_server.settings.identities import IdentityKind

UNSET = (
    "set OTAFLUX_IDENTITY__KIND to say how devices prove who they are: Certificate, "
    "ForwardedCertificate or Token; or Open, on a network that you trust, to believe the id in "
    "the request"
)


class IdentityUnset(ValueError):
    """The settings do not say how devices prove who they are."""

    def __init__(self) -> None:
        super().__init__(UNSET)


def identifier(settings: Settings, groups: GroupsOf, metrics: Metrics) -> Identifier:
    """What `settings.identity` says. Raises IdentityUnset."""
    identity = settings.identity
    names = Names(identity, settings.default_namespace)
    match identity.kind:
        case IdentityKind.CERTIFICATE:
            return Certificates(names)
        case IdentityKind.FORWARDED_CERTIFICATE:
            return ForwardedCertificates(identity, names)
        case IdentityKind.TOKEN:
            assert identity.tokens is not None  # IdentitySettings sees to it
            return Tokens(TokenFiles(identity.tokens), groups, metrics)
        case IdentityKind.OPEN:
            return Open()
        case None:
            raise IdentityUnset
