"""Every setting of the update server: environment variables `OTAFLUX_…`, nested by `__`."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from otaflux_policy.devices import DEVICE_ID_PATTERN

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
        Path("/var/lib/otaflux"), description="Artifacts and the last known policies."
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
        200_000, description="Devices remembered; beyond, those longest unseen are forgotten."
    )
    native: NativeSettings = Field(
        default_factory=lambda: NativeSettings(), description="The native protocol."
    )
    artifacts: ArtifactSettings = Field(
        default_factory=lambda: ArtifactSettings(), description="The artifact store."
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
