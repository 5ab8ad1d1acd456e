"""Registries as the source of artifacts, with the credentials that the operator handed over."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import structlog

from otaflux_oci import (
    Credentials,
    Limits,
    RegistryClient,
    RegistrySettings,
    Repository,
    Source,
    Tls,
)
from otaflux_policy.contract import Artifact
from otaflux_policy.credentials import InvalidAccess, RegistryAccess, entry_key
from otaflux_server.artifacts import ArtifactError

log = structlog.get_logger(__name__)


class CredentialsMissing(ArtifactError):
    """The policy names an entry that the Secret does not hold (yet)."""

    reason = "CredentialsMissing"


class CredentialsInvalid(ArtifactError):
    """The entry cannot be used."""

    reason = "CredentialsInvalid"


class PullCredentials:
    """The entries of the one Secret; nothing of it is ever printed."""

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}
        self._watchers: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"PullCredentials({len(self._entries)} entries)"

    def replace(self, data: Mapping[str, bytes]) -> None:
        """The Secret's whole data."""
        if data != self._entries:
            self._entries = dict(data)
            log.info("pull credentials changed", entries=len(data))
            for watcher in self._watchers:
                watcher()

    def subscribe(self, watcher: Callable[[], None]) -> None:
        """Has `watcher` called after each change."""
        self._watchers.append(watcher)

    def access(self, name: str) -> RegistryAccess:
        """The entry of this name. Raises CredentialsMissing, CredentialsInvalid."""
        content = self._entries.get(entry_key(name))
        if content is None:
            raise CredentialsMissing(
                f"the credentials entry {name} is not in the Secret that the operator writes (yet)"
            )
        problem = "is not text"
        try:
            return RegistryAccess.loads(content.decode())
        except InvalidAccess as error:
            problem = f"cannot be used: {error}"
        except UnicodeDecodeError:
            pass
        # Raised out here: the exceptions above hold the content.
        raise CredentialsInvalid(f"the credentials entry {name} {problem}")


class RegistrySources:
    """An `ArtifactSource`: a registry client per pull, with what that pull needs."""

    def __init__(
        self,
        credentials: PullCredentials,
        settings: RegistrySettings,
        *,
        max_artifact_bytes: int,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._limits = Limits(blob_bytes=max_artifact_bytes)

    @asynccontextmanager
    async def __call__(self, artifact: Artifact) -> AsyncIterator[Source]:
        """Raises CredentialsMissing, CredentialsInvalid, OciError."""
        credentials, tls = None, None
        if artifact.credentials is not None:
            access = self._credentials.access(artifact.credentials)
            credentials = Credentials.of_registry(
                Repository.parse(artifact.repository).registry,
                username=access.username,
                password=access.password,
                identity_token=access.identity_token,
            )
            tls = Tls.of(ca=access.ca, cert=access.cert, key=access.key)
        async with RegistryClient(
            settings=self._settings,
            credentials=credentials,
            tls=tls,
            insecure=artifact.insecure,
            limits=self._limits,
        ) as client:
            yield client
