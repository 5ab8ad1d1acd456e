"""The settings of the operator: environment variables `OTAFLUX_…`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from otaflux_oci.networks import RegistrySettings


class Settings(BaseSettings):
    """Each field is an environment variable with the prefix `OTAFLUX_`."""

    model_config = SettingsConfigDict(
        env_prefix="OTAFLUX_", env_nested_delimiter="__", extra="ignore"
    )

    server_url: str = Field(
        default="",
        description="Base URL of the update servers' internal API: http://otaflux-server:8081. "
        "Empty: none, so that nothing can be released.",
    )
    server_token_file: Path = Field(
        default=Path("/var/run/secrets/otaflux/server/token"),
        description="File with the token that the internal API wants: a projected ServiceAccount "
        "token of its audience, or the shared one. Read again when it changes; absent: none is "
        "sent.",
    )
    server_ca: Path | None = Field(
        default=None,
        description="Authorities that the internal API's certificate is checked against. Unset: "
        "those of the system.",
    )
    registries: RegistrySettings = Field(
        default_factory=lambda: RegistrySettings(), description="What registries may be reached."
    )
    namespace: str = Field(
        default="",
        description="Namespace of the Lease and of the signing key. Empty: the operator's own.",
    )
    signing_secret: str = Field(
        default="otaflux-policy-signing",
        description="Secret with the private keys that policies are signed with (`*.key`, Ed25519 "
        "in PEM; the last by name signs). Made with a new key where it does not exist.",
    )
    lease: str = Field(
        default="otaflux-operator",
        description="Lease that the one operator holds which writes.",
    )
    lease_seconds: float = Field(
        default=15.0,
        ge=1.0,
        le=300.0,
        description="After how long without a renewal another operator takes the Lease. One that "
        "could not renew it for two thirds of that ends.",
    )
    kubeconfig: Path | None = Field(
        default=None,
        description="Kubeconfig file. Absent: the service account of the pod, else the file that "
        "kubectl would use.",
    )
    watch_namespaces: tuple[str, ...] = Field(
        default=(), description="Namespaces to work in, as a JSON list. Empty: all of them."
    )
    credentials_namespace: str = Field(
        default="",
        description="Namespace of the Secret with pull credentials: that of the update servers. "
        "Empty: the operator's own.",
    )
    credentials_secret: str = Field(
        default="otaflux-pull-credentials",
        description="Name of the Secret through which the update servers get pull credentials.",
    )
    listen: str = Field(
        default="",
        description="Address (host:port) for /metrics and /healthz. Empty: none.",
    )
    log_level: str = Field(
        default="info", description="Least level of log lines: debug, info, warning or error."
    )
