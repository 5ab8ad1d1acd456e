"""TLS of the two ports, and who may use the internal one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TlsSettings(BaseModel):
    """TLS of a port. All files are PEM, and read again when they change."""

    model_config = ConfigDict(extra="forbid")

    certificate: Path | None = Field(
        None, description="The server's certificate and its chain. Unset: plain HTTP."
    )
    key: Path | None = Field(None, description="The certificate's unencrypted private key.")
    minimum: Literal["1.2", "1.3"] = Field("1.2", description="The lowest version of TLS.")
    client_ca: Path | None = Field(
        None,
        description="Authorities whose client certificates are accepted. Set: a client has to "
        "show one.",
    )
    crl: Path | None = Field(
        None,
        description="Certificate revocation lists of those authorities. Set: each of them needs a "
        "current one, or its certificates are refused.",
    )

    handshake_seconds: Annotated[float, Field(gt=0)] = Field(
        10.0, description="A handshake that takes longer than this is given up."
    )

    @model_validator(mode="after")
    def _whole(self) -> "TlsSettings":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs certificate and key")
        if self.crl is not None and self.client_ca is None:
            raise ValueError("crl needs client_ca")
        return self


class InternalAuthentication(StrEnum):
    """How the internal API knows who asks."""

    SERVICE_ACCOUNT = "ServiceAccount"
    TOKEN = "Token"
    NONE = "None"


class InternalSettings(BaseModel):
    """The internal API: who may use it. Health and metrics are open to whoever reaches the port."""

    model_config = ConfigDict(extra="forbid")

    authentication: InternalAuthentication = Field(
        InternalAuthentication.SERVICE_ACCOUNT,
        description="`ServiceAccount`: a token of one of `service_accounts`, which the API server "
        "reviews. `Token`: the one in `token_file`. `None`: whoever reaches the port.",
    )
    service_accounts: tuple[str, ...] = Field(
        ("otaflux-system:otaflux-operator",),
        description="Who may use it, each as `NAMESPACE:NAME` (a JSON list).",
    )
    audience: str = Field(
        "otaflux-server", description="The audience that a ServiceAccount's token must have."
    )
    token_file: Path | None = Field(
        None, description="File with the shared token; read again when it changes."
    )
    tls: TlsSettings = Field(default_factory=lambda: TlsSettings(), description="TLS of the port.")

    @model_validator(mode="after")
    def _whole(self) -> "InternalSettings":
        if self.authentication is InternalAuthentication.TOKEN and self.token_file is None:
            raise ValueError("authentication Token needs token_file")
        return self
