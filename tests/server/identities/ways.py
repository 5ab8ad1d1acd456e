"""Every way in which devices prove who they are: its settings, and what a device shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otaflux_cli.control_plane.certificates import write_server_certificate
from otaflux_policy.tokens import DeviceToken, hash_of, new_token
from tests.server.fleets import NAMESPACE, Served, group, serving, settings
from tests.server.identities.asking import Credentials
from tests.server.identities.authorities import Issued, authority, of_device, uri

DEVICE = "kitchen-1"
VICTIM = "hall-1"
GROUP = "kitchens"
OTHER_NAMESPACE = "office"

PROXY = "10.1.2.3"
TRUSTED = ["10.1.0.0/16"]


@dataclass(frozen=True)
class Way:
    """`identity` and `tls` give settings; `shows` what a device of a namespace sends along."""

    name: str
    identity: Callable[[Path], dict[str, Any]]
    shows: Callable[[str, str], Credentials]
    tls: Callable[[Path], dict[str, Any]] = lambda _: {}


_tokens: dict[tuple[str, str], str] = {}


def token_of(namespace: str, device: str) -> str:
    return _tokens.setdefault((namespace, device), new_token())


def bearer(token: str, scheme: str = "Bearer") -> Credentials:
    return Credentials(headers=(("Authorization", f"{scheme} {token}"),))


def device_token(token: str, **fields: Any) -> DeviceToken:
    values: dict[str, Any] = {"name": "a token", "namespace": NAMESPACE}
    return DeviceToken(sha256=hash_of(token), **(values | fields))


def write(file: Path, *tokens: DeviceToken) -> None:
    file.write_text("".join(token.dumps() + "\n" for token in tokens))


def _forwarded(header: str) -> Callable[[Path], dict[str, Any]]:
    return lambda _: {
        "kind": "ForwardedCertificate",
        "forwarded_header": header,
        "trusted_peers": TRUSTED,
    }


def _proxied(*headers: tuple[str, str]) -> Credentials:
    return Credentials(headers=headers, peer=PROXY)


def _token(folder: Path) -> dict[str, Any]:
    file = folder / "tokens"
    whose = [(ns, dev) for ns in (NAMESPACE, OTHER_NAMESPACE) for dev in (DEVICE, VICTIM)]
    write(
        file, *(device_token(token_of(ns, dev), namespace=ns, devices=[dev]) for ns, dev in whose)
    )
    return {"kind": "Token", "tokens": str(file)}


def _group_token(folder: Path) -> dict[str, Any]:
    file = folder / "tokens"
    write(
        file,
        *(
            device_token(token_of(namespace, DEVICE), namespace=namespace, group=GROUP)
            for namespace in (NAMESPACE, OTHER_NAMESPACE)
        ),
    )
    return {"kind": "Token", "tokens": str(file)}


CARRIERS: dict[str, Callable[[Issued], Credentials]] = {
    "Certificate": lambda issued: Credentials(chain=(issued.pem,)),
    "Envoy-Cert": lambda issued: _proxied(
        (
            "X-Forwarded-Client-Cert",
            f'Hash=a1;Cert="{issued.quoted}";Subject="CN=x\\"y";URI=u:x',
        )
    ),
    "IngressNginx": lambda issued: _proxied(
        ("ssl-client-verify", "SUCCESS"), ("ssl-client-cert", issued.quoted)
    ),
    "RFC9440": lambda issued: _proxied(("Client-Cert", issued.sequence)),
}
"""How a certificate itself reaches the server, by the name of the way."""


def _mutual_tls(folder: Path) -> dict[str, Any]:
    own = write_server_certificate(folder)
    clients = folder / "clients.pem"
    clients.write_text(authority().pem)
    return {"certificate": str(own.certificate), "key": str(own.key), "client_ca": str(clients)}


def _certificate(name: str, identity: Callable[[Path], dict[str, Any]], **more: Any) -> Way:
    carry = CARRIERS[name]
    return Way(name, identity, lambda ns, device: carry(of_device(ns, device)), **more)


WAYS = (
    _certificate("Certificate", lambda _: {"kind": "Certificate"}, tls=_mutual_tls),
    _certificate("Envoy-Cert", _forwarded("Envoy")),
    _certificate("IngressNginx", _forwarded("IngressNginx")),
    _certificate("RFC9440", _forwarded("RFC9440")),
    Way(
        "Envoy",
        _forwarded("Envoy"),
        lambda ns, device: _proxied(("X-Forwarded-Client-Cert", f"Hash=a1;URI={uri(ns, device)}")),
    ),
    Way("Token", _token, lambda ns, device: bearer(token_of(ns, device))),
    Way("Token-group", _group_token, lambda ns, device: bearer(token_of(ns, device))),
)


@contextmanager
def serving_way(way: Way, folder: Path, **fields: Any) -> Iterator[Served]:
    """A server with this way of identity, and the group of `DEVICE` in both namespaces."""
    values = {
        "identity": way.identity(folder),
        "tls": way.tls(folder),
        "connections": {"refusals_burst": 1e6},  # a route table is asked at once
    } | fields
    options = settings(folder / "data", **values)
    with serving(options) as served:
        for namespace in (NAMESPACE, OTHER_NAMESPACE):
            served.apply(group(GROUP, namespace=namespace, names=(DEVICE,)))
        yield served
