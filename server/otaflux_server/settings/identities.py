"""How devices prove who they are."""

import re
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEVICE_PATTERN = (
    r"otaflux://(?P<namespace>[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)"
    r"/(?P<device>[A-Za-z0-9][A-Za-z0-9._:-]{0,127})"
)


class IdentityKind(StrEnum):
    """How a device proves who it is."""

    CERTIFICATE = "Certificate"
    FORWARDED_CERTIFICATE = "ForwardedCertificate"
    TOKEN = "Token"
    OPEN = "Open"


class CertificateField(StrEnum):
    """Where in a certificate the device is named."""

    URI = "URI"
    DNS = "DNS"
    COMMON_NAME = "CommonName"


class ForwardedHeader(StrEnum):
    """In which header a proxy tells the certificate of the client."""

    ENVOY = "Envoy"
    INGRESS_NGINX = "IngressNginx"
    RFC9440 = "RFC9440"


class Tenancy(StrEnum):
    """Whether the server has devices of several namespaces."""

    NAMESPACE = "Namespace"
    SINGLE = "Single"


class IdentitySettings(BaseModel):
    """How devices prove who they are: one way for all protocols."""

    model_config = ConfigDict(extra="forbid")

    kind: IdentityKind | None = Field(
        None,
        description="`Certificate`: mutual TLS ends at this server. `ForwardedCertificate`: it "
        "ends at a proxy, which names the client's certificate in a header. `Token`: a token. "
        "`Open`: the id in the request is believed; only for a network that you trust. Has to be "
        "set.",
    )
    certificate_field: CertificateField = Field(
        CertificateField.URI,
        description="Where a certificate names its device: `URI` or `DNS` (subject alternative "
        "names), or `CommonName`.",
    )
    certificate_pattern: str = Field(
        DEVICE_PATTERN,
        description="Regular expression that the whole name has to match; its group `device` is "
        "the device id, its group `namespace` (where it has one) the namespace, else it is the "
        "default namespace.",
    )
    forwarded_header: ForwardedHeader = Field(
        ForwardedHeader.ENVOY,
        description="`Envoy` (`X-Forwarded-Client-Cert`; have it forward `Cert`, else nothing is "
        "known of the certificate's validity, and one name alone may be there; for `DNS` no URI "
        "either), `IngressNginx` "
        "(`ssl-client-cert`, `ssl-client-verify`) or `RFC9440` (`Client-Cert`).",
    )
    trusted_peers: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="Networks of the proxies whose forwarded certificates are believed, by the "
        "address of the connection (a JSON list of CIDRs); all others get 401. Needed for "
        "`ForwardedCertificate`.",
    )
    tokens: Path | None = Field(
        None,
        description="File, or folder of files, with the hashes of device tokens, as `otaflux "
        "device token create` writes them; read again when it changes. Needed for `Token`.",
    )
    tenancy: Tenancy = Field(
        Tenancy.NAMESPACE,
        description="`Namespace`: a device belongs to the namespace of its certificate or token, "
        "and uses that namespace's `/t/<namespace>/` prefix or none. `Single`: all devices belong "
        "to the default namespace, and there is no prefix; certificates and tokens of another "
        "namespace get 403.",
    )

    @field_validator("certificate_pattern")
    @classmethod
    def _names_a_device(cls, text: str) -> str:
        try:
            groups = re.compile(text).groupindex
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if "device" not in groups:
            raise ValueError("needs a group (?P<device>…)")
        return text

    @field_validator("trusted_peers")
    @classmethod
    def _trusts_not_everybody(
        cls, networks: tuple[IPv4Network | IPv6Network, ...]
    ) -> tuple[IPv4Network | IPv6Network, ...]:
        for network in networks:
            if network.prefixlen == 0:
                raise ValueError(f"{network} is everybody: write the networks of the proxies")
        return networks

    @model_validator(mode="after")
    def _whole(self) -> "IdentitySettings":
        if self.kind is IdentityKind.TOKEN and self.tokens is None:
            raise ValueError("kind Token needs tokens")
        if self.kind is IdentityKind.FORWARDED_CERTIFICATE and not self.trusted_peers:
            raise ValueError("kind ForwardedCertificate needs trusted_peers")
        return self
