"""Every setting of the update server: environment variables `OTAFLUX_…`, nested by `__`."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from otaflux_policy.devices import DEVICE_ID_PATTERN
from otaflux_server.evidence.databases import database_url

NAMESPACE_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_LISTEN = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]*):(?P<port>\d{1,5})")


class NativeSettings(BaseModel):
    """The native protocol (`/version`, `/firmware`)."""

    model_config = ConfigDict(extra="forbid")

    default_device: Annotated[str, Field(pattern=DEVICE_ID_PATTERN)] | None = Field(
        None,
        description="Device id of clients that send no `device` (firmware of May 2025 and older). "
        "Unset: they get 400.",
    )


class ArtifactSettings(BaseModel):
    """The store of artifacts on disk."""

    model_config = ConfigDict(extra="forbid")

    max_bytes: Annotated[int, Field(ge=0)] = Field(
        10 * 1024**3,
        description="Beyond this many bytes, artifacts that no policy lists are removed, the one "
        "longest unused first. What a policy lists always stays.",
    )
    max_artifact_bytes: Annotated[int, Field(ge=1)] = Field(
        1024**3, description="A larger artifact is refused (`ArtifactTooLarge`)."
    )
    free_bytes: Annotated[int, Field(ge=0)] = Field(
        64 * 1024**2,
        description="Nothing is fetched that would leave less than this free on the disk "
        "(`StorageFull`).",
    )
    concurrent_pulls: Annotated[int, Field(ge=1)] = Field(
        4, description="Pulls that run at one time."
    )
    retry_seconds: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Longest wait before the first retry of a pull; it doubles each time."
    )
    max_retry_seconds: Annotated[float, Field(gt=0)] = Field(
        300.0, description="Longest wait between two tries of a pull."
    )


class ConnectionSettings(BaseModel):
    """What a connection of a device may cost."""

    model_config = ConfigDict(extra="forbid")

    max_connections: Annotated[int, Field(ge=1)] = Field(
        20_000, description="Open connections at one time; further ones are closed at once."
    )
    request_seconds: Annotated[float, Field(gt=0)] = Field(
        20.0, description="A request must have come completely within this time."
    )
    idle_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="A connection without a request is closed after this time."
    )
    stall_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="A reader that takes no byte for this time is dropped."
    )
    response_seconds: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="A response that takes longer than this is dropped."
    )
    max_head_bytes: Annotated[int, Field(ge=512)] = Field(
        16 * 1024, description="Size of a request's head; a larger one gets 431."
    )
    max_body_bytes: Annotated[int, Field(ge=1)] = Field(
        64 * 1024, description="Size of a request's body; a larger one gets 413."
    )


class EvidenceSettings(BaseModel):
    """The record of what devices did, and the spans by which it is judged."""

    model_config = ConfigDict(extra="forbid")

    database_url: SecretStr = Field(
        SecretStr(""),
        description="`postgresql://USER:PASSWORD@HOST/NAME`, which several servers may share, or "
        "`sqlite:///FILE`. Empty: `evidence.db` in the data directory.",
    )
    batch_seconds: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Facts are written to the database at least this often."
    )
    batch_rows: Annotated[int, Field(ge=1)] = Field(
        1000, description="Rows that are written in one transaction; so many do not wait."
    )
    buffer_rows: Annotated[int, Field(ge=1)] = Field(
        100_000,
        description="Attempts, and as many devices, whose facts are kept in memory while the "
        "database cannot be used.",
    )
    contact_seconds: Annotated[float, Field(ge=0)] = Field(
        60.0,
        description="That a device was there, and nothing else, is written at most this often.",
    )
    install_grace_seconds: Annotated[int, Field(ge=0)] = Field(
        3600,
        description="A device that reports its old version so long after a complete download "
        "has failed (`RevertedAfterInstall`).",
    )
    poll_gap_seconds: Annotated[int, Field(ge=0)] = Field(
        60,
        description="A device that never reports a version counts as updated at its second poll "
        "after a complete download, at least so long after it.",
    )
    request_within_seconds: Annotated[int, Field(ge=1)] = Field(
        600,
        description="A device that never reports, and polls again so long after its offer without "
        "having fetched a byte, frees its slot (`NotRequested`).",
    )
    scan_seconds: Annotated[int, Field(ge=0)] = Field(
        600,
        description="A device that no DeviceGroup names exactly counts once two of its polls lie "
        "so far apart: scanners do not.",
    )
    retention_days: Annotated[int, Field(ge=1)] = Field(
        90, description="Ended runs, and devices unseen for so long, are deleted."
    )
    heartbeat_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="How often servers that share a database tell each other what they serve."
    )
    refresh_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="How often they read what the others recorded."
    )

    @field_validator("database_url")
    @classmethod
    def _valid_database_url(cls, text: SecretStr) -> SecretStr:
        if text.get_secret_value():
            database_url(text.get_secret_value())
        return text


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
