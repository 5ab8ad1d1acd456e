"""The settings of the operator: environment variables `OTAFLUX_…`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


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
