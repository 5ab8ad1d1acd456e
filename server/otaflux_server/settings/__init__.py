"""Every setting of the update server: environment variables `OTAFLUX_…`, nested by `__`."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from otaflux_oci.networks import RegistrySettings
from otaflux_server.settings.artifacts import ArtifactSettings as ArtifactSettings
from otaflux_server.settings.connections import ConnectionSettings as ConnectionSettings
from otaflux_server.settings.evidence import EvidenceSettings as EvidenceSettings
from otaflux_server.settings.identities import IdentityKind as IdentityKind
from otaflux_server.settings.identities import IdentitySettings as IdentitySettings
from otaflux_server.settings.protocols import NativeSettings as NativeSettings
from otaflux_server.settings.tls import InternalAuthentication as InternalAuthentication
from otaflux_server.settings.tls import InternalSettings as InternalSettings
from otaflux_server.settings.tls import TlsSettings as TlsSettings

NAMESPACE_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_LISTEN = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]*):(?P<port>\d{1,5})")


class Settings(BaseSettings):
    """The update server's settings."""

    model_config = SettingsConfigDict(
        env_prefix="OTAFLUX_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    listen: str = Field("0.0.0.0:8080", description="Where devices connect: `HOST:PORT`.")
    internal_listen: str = Field(
        "0.0.0.0:8081",
        description="Internal API, health and metrics: `HOST:PORT`. Not for devices.",
    )
    data_dir: Path = Field(
        Path("/var/lib/otaflux"),
        description="Artifacts, the last known policies, and the record of what devices did.",
    )
    default_namespace: Annotated[str, Field(pattern=NAMESPACE_PATTERN)] = Field(
        "default", description="Namespace of devices that use no `/t/<namespace>/` prefix."
    )
    public_url: str | None = Field(
        None,
        description="Base of the download URLs that devices get, such as "
        "`https://updates.example.com`. Unset: the request's own scheme and Host.",
    )
    poll_after_seconds: Annotated[int, Field(ge=1)] = Field(
        300, description="When a device of the JSON protocol is asked to poll again."
    )
    pin_seconds: Annotated[float, Field(gt=0)] = Field(
        600.0, description="How long `/firmware` gives what `/version` announced."
    )
    max_devices: Annotated[int, Field(ge=1)] = Field(
        200_000,
        description="Devices in memory; beyond, those longest unseen are left to the database.",
    )
    identity: IdentitySettings = Field(
        default_factory=lambda: IdentitySettings(), description="How devices prove who they are."
    )
    tls: TlsSettings = Field(
        default_factory=lambda: TlsSettings(), description="TLS of the device port."
    )
    internal: InternalSettings = Field(
        default_factory=lambda: InternalSettings(), description="Who may use the internal API."
    )
    registries: RegistrySettings = Field(
        default_factory=lambda: RegistrySettings(), description="What registries may be reached."
    )
    policy_keys: Path | None = Field(
        None,
        description="File, or folder of `*.pub` files, with the public keys that policies are "
        "signed with. Unset: those that the operator writes into the credentials Secret.",
    )
    native: NativeSettings = Field(
        default_factory=lambda: NativeSettings(), description="The native protocol."
    )
    artifacts: ArtifactSettings = Field(
        default_factory=lambda: ArtifactSettings(), description="The artifact store."
    )
    evidence: EvidenceSettings = Field(
        default_factory=lambda: EvidenceSettings(), description="The record of what devices did."
    )
    connections: ConnectionSettings = Field(
        default_factory=lambda: ConnectionSettings(), description="Limits of device connections."
    )
    shutdown_seconds: Annotated[float, Field(ge=0)] = Field(
        20.0, description="How long running downloads may go on after SIGTERM."
    )
    kubeconfig: Path | None = Field(
        None, description="Kubeconfig of the cluster; unset: the pod's service account."
    )
    watch_namespaces: tuple[Annotated[str, Field(pattern=NAMESPACE_PATTERN)], ...] = Field(
        (), description="Namespaces whose policies are served (a JSON list); empty: all."
    )
    credentials_secret: str = Field(
        "otaflux-pull-credentials",
        description="The Secret, written by the operator, with the credentials of registries.",
    )
    credentials_namespace: str | None = Field(
        None, description="Its namespace; unset: the server's own."
    )
    watch_idle_seconds: Annotated[float, Field(gt=0)] = Field(
        90.0,
        description="A watch on which nothing comes for this time, not even a bookmark, is "
        "opened again.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe entries that are logged."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`auto`: text on a terminal, else JSON."
    )

    @property
    def evidence_url(self) -> str:
        """The URL of the database; it may hold a password."""
        given = self.evidence.database_url.get_secret_value()
        return given or f"sqlite:///{self.data_dir.absolute() / 'evidence.db'}"

    @property
    def scan_seconds(self) -> int:
        """`evidence.scan_seconds`; 0 where devices prove who they are, as scanners cannot."""
        return self.evidence.scan_seconds if self.identity.kind is IdentityKind.OPEN else 0

    @model_validator(mode="after")
    def _certificates_have_authorities(self) -> "Settings":
        if self.identity.kind is IdentityKind.CERTIFICATE and self.tls.client_ca is None:
            raise ValueError(
                "OTAFLUX_IDENTITY__KIND is Certificate: set OTAFLUX_TLS__CLIENT_CA (with "
                "OTAFLUX_TLS__CERTIFICATE and OTAFLUX_TLS__KEY) to the authorities that issue them"
            )
        return self

    @field_validator("listen", "internal_listen")
    @classmethod
    def _valid_listen(cls, text: str) -> str:
        address(text)
        return text

    @field_validator("public_url")
    @classmethod
    def _valid_public_url(cls, text: str | None) -> str | None:
        if text is None:
            return None
        if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", text):
            raise ValueError("write an absolute URL, such as https://updates.example.com")
        return text.rstrip("/")


def address(listen: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; an IPv6 host in brackets, none for every address.

    Raises:
        ValueError: it is not of that form.
    """
    found = _LISTEN.fullmatch(listen)
    if found is None or int(found["port"]) > 65535:
        raise ValueError("write HOST:PORT, such as 0.0.0.0:8080 or [::1]:8080")
    return found["host"].strip("[]") or "0.0.0.0", int(found["port"])
