"""Artifacts from registries."""

from contextlib import AbstractAsyncContextManager

from otaflux_oci import Limits, RegistryClient, RegistrySettings, Repository, Source, Tls
from otaflux_operator.accesses import credentials
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
            credentials=credentials(access, repository.registry),
            tls=_tls(access),
            insecure=insecure,
            limits=self._limits,
        )


def _tls(access: RegistryAccess) -> Tls | None:
    if not (access.ca or access.cert):
        return None
    return Tls(
        ca=access.ca.encode() or None,
        cert=access.cert.encode() or None,
        key=access.key.encode() or None,
    )
