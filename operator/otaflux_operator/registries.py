"""Artifacts from registries."""

from contextlib import AbstractAsyncContextManager

from otaflux_oci import (
    Credentials,
    Limits,
    RegistryClient,
    RegistrySettings,
    Repository,
    Source,
    Tls,
)
from otaflux_policy.credentials import RegistryAccess


class RegistrySources:
    """A registry client per lookup, with exactly what its registry needs."""

    def __init__(self, settings: RegistrySettings, limits: Limits | None = None) -> None:
        self._settings = settings
        self._limits = limits

    def open(
        self, repository: Repository, access: RegistryAccess, *, insecure: bool
    ) -> AbstractAsyncContextManager[Source]:
        """A client for one repository. Raises OciError."""
        return RegistryClient(
            settings=self._settings,
            credentials=Credentials.of_registry(
                repository.registry,
                username=access.username,
                password=access.password,
                identity_token=access.identity_token,
            ),
            tls=Tls.of(ca=access.ca, cert=access.cert, key=access.key),
            insecure=insecure,
            limits=self._limits,
        )
