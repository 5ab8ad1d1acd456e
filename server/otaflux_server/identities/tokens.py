"""Identity by token: 256 random bits in `Authorization`, of which the server knows the hash."""

import asyncio
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from typing_extensions import override

from otaflux_policy.groups import Groups
from otaflux_policy.selectors import glob_matches, is_glob
from otaflux_policy.tokens import DeviceToken, hash_of, is_token
from otaflux_server.identities import (
    Identifier,
    Identity,
    Scope,
    Unidentified,
    only_header,
)
from otaflux_server.identities.token_files import TokenFiles
from otaflux_server.metrics import Metrics
from otaflux_server.refusals import Refusal

log = structlog.get_logger(__name__)

_SCHEMES = frozenset({b"bearer", b"targettoken", b"gatewaytoken"})
_SHOWN = 10

GroupsOf = Callable[[str], Groups]
"""The device groups of a namespace, as they are now."""


class Holder(NamedTuple):
    """Whose a token is, and until when, in seconds since 1970."""

    identity: Identity
    expires: float


@dataclass(frozen=True, slots=True)
class Named(Container[str]):
    """The devices with these ids, or whose id one of these globs matches."""

    ids: frozenset[str]
    globs: tuple[str, ...]

    def __contains__(self, device: object) -> bool:
        return isinstance(device, str) and (
            device in self.ids or any(glob_matches(glob, device) for glob in self.globs)
        )


@dataclass(frozen=True, slots=True)
class InGroup(Container[str]):
    """The devices that are in a device group at the moment of asking."""

    groups: GroupsOf
    namespace: str
    group: str

    def __contains__(self, device: object) -> bool:
        return isinstance(device, str) and any(
            group.name == self.group for group in self.groups(self.namespace).of(device)
        )


class Tokens(Identifier):
    """`Token`: `Authorization: Bearer otd_…`, or hawkBit's `TargetToken` and `GatewayToken`.

    A token is found by its hash, so that how long that takes tells nothing of others.
    """

    challenge = ((b"WWW-Authenticate", b'Bearer realm="otaflux"'),)

    def __init__(
        self,
        files: TokenFiles,
        groups: GroupsOf,
        metrics: Metrics,
        *,
        interval: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`interval`: seconds between two looks at the files."""
        self._files = files
        self._groups = groups
        self._metrics = metrics
        self._interval = interval
        self._clock = clock
        self._holders: dict[str, Holder] = {}

    @override
    def identify(self, scope: Scope) -> Identity:
        value = only_header(scope, b"authorization")
        if value is None:
            raise Unidentified(Refusal.NO_TOKEN, "a token is needed")
        scheme, _, text = value.partition(b" ")
        token = text.decode("latin-1")
        if scheme.lower() not in _SCHEMES or not is_token(token):
            raise Unidentified(Refusal.MALFORMED_HEADER, "this is no device token")
        holder = self._holders.get(hash_of(token))
        if holder is None:
            raise Unidentified(Refusal.TOKEN_UNKNOWN, "the token is not known")
        if self._clock() >= holder.expires:
            raise Unidentified(Refusal.TOKEN_EXPIRED, "the token has expired")
        return holder.identity

    @override
    async def start(self) -> None:
        await self._look()

    @override
    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._look()

    async def _look(self) -> None:
        holders, refused = await asyncio.to_thread(self._read)
        if holders is not None:
            self._holders = holders
            self._metrics.tokens.labels("Known").set(len(holders))
            self._metrics.tokens.labels("Refused").set(refused)

    def _read(self) -> tuple[dict[str, Holder] | None, int]:
        if not self._files.read():
            return None, 0
        holders, conflicts = _holders(self._files.tokens(), self._groups)
        return holders, self._files.refused + conflicts


def _holders(tokens: Iterable[DeviceToken], groups: GroupsOf) -> tuple[dict[str, Holder], int]:
    """Whose each token is, by its hash, and how many are two people's, and so nobody's."""
    found: dict[str, DeviceToken] = {}
    conflicts: dict[str, str] = {}
    for token in tokens:
        known = found.setdefault(token.sha256, token)
        if _meaning(known) != _meaning(token):
            conflicts[token.sha256] = token.name
    for digest in conflicts:
        del found[digest]
    if conflicts:
        log.error(
            "device tokens refused: the same token stands for different devices",
            names=list(conflicts.values())[:_SHOWN],
            count=len(conflicts),
        )
    return {digest: _holder(token, groups) for digest, token in found.items()}, len(conflicts)


def _meaning(token: DeviceToken) -> object:
    return token.namespace, frozenset(token.devices), token.group, token.expires_at


def _holder(token: DeviceToken, groups: GroupsOf) -> Holder:
    expires = float("inf") if token.expires_at is None else token.expires_at.timestamp()
    names = set(token.devices)
    if token.group is not None:
        identity = Identity(token.namespace, InGroup(groups, token.namespace, token.group))
    elif "*" in names:
        identity = Identity(token.namespace, None)
    elif len(names) == 1 and not is_glob(sole := token.devices[0]):
        identity = Identity.of_device(token.namespace, sole)
    else:
        globs = tuple(sorted(filter(is_glob, names)))
        identity = Identity(token.namespace, Named(frozenset(names.difference(globs)), globs))
    return Holder(identity, expires)
