"""Pull secrets: `kubernetes.io/dockerconfigjson`, and PEM for a private CA.

Nothing here is printed: every repr hides its secrets, no message repeats its input.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from .errors import InvalidCredentials
from .references import DOCKER_HUB, Repository

_MAX_BYTES = 1024 * 1024  # what a Secret can hold
_DOCKER_HUB_HOSTS = {"docker.io", "index.docker.io", "registry-1.docker.io"}
_API_PATHS = {"v1", "v2"}


@dataclass(frozen=True)
class Basic:
    """User name and password (or robot account and token)."""

    username: str
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        """Value of an Authorization header (RFC 7617, UTF-8)."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


@dataclass(frozen=True)
class IdentityToken:
    """An OAuth2 refresh token, exchanged for access tokens at the token server."""

    token: str = field(repr=False)


@dataclass(frozen=True)
class Tls:
    """PEM: `ca` is trusted besides the public authorities; `cert` and `key` go together."""

    ca: bytes | None = field(default=None, repr=False)
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidCredentials("A client certificate needs both tls.crt and tls.key.")

    @classmethod
    def of(cls, *, ca: str, cert: str, key: str) -> Tls | None:
        """Of texts, empty where there is none; None: there is none at all.

        Raises InvalidCredentials.
        """
        if not (ca or cert or key):
            return None
        return cls(ca.encode() or None, cert.encode() or None, key.encode() or None)


@dataclass(frozen=True)
class _Entry:
    host: str  # lower case, with port; labels may be globs
    path: tuple[str, ...]
    credential: Basic | IdentityToken = field(repr=False)

    def fits(self, repository: Repository) -> bool:
        segments = tuple(repository.name.split("/"))
        return _host_fits(self.host, repository.registry) and (
            segments[: len(self.path)] == self.path
        )

    @property
    def rank(self) -> tuple[int, bool]:
        return (len(self.path), "*" not in self.host)


class Credentials:
    """The `auths` of a Docker configuration.

    An entry fits by host with exact port and by whole path segments; the longest path wins,
    then a host without globs. Globs work per label, as for the kubelet's image pulls.
    """

    def __init__(self, entries: Mapping[str, Basic | IdentityToken]) -> None:
        """`entries`: key as in `auths` ("registry.example.com:5000/team") to credential."""
        self._entries = tuple(_entry(key, value) for key, value in entries.items())

    @classmethod
    def of_registry(
        cls, registry: str, *, username: str, password: str, identity_token: str
    ) -> Credentials | None:
        """For every repository of one registry, and no other; None where all are empty: anonymous.

        Raises InvalidCredentials.
        """
        if identity_token:
            return cls({registry: IdentityToken(identity_token)})
        if username or password:
            return cls({registry: Basic(username, password)})
        return None

    @classmethod
    def from_dockerconfigjson(cls, document: bytes | str) -> Credentials:
        """Raises InvalidCredentials; its messages name the field, never a value."""
        value = _load(document)
        if value is None:
            raise InvalidCredentials(
                "The pull secret is not JSON. Create it with "
                "`kubectl create secret docker-registry`."
            )
        for helper in ("credHelpers", "credsStore"):
            if value.get(helper):
                raise InvalidCredentials(
                    f"The pull secret uses `{helper}`, which would run a program. "
                    "Write user name and password under `auths`."
                )
        auths = value.get("auths")
        if not isinstance(auths, dict):
            raise InvalidCredentials("The pull secret has no `auths` object.")
        entries: dict[str, Basic | IdentityToken] = {}
        for key, auth in auths.items():
            credential = _credential(auth)
            if credential is not None:
                entries[key] = credential
        return cls(entries)

    def for_repository(self, repository: Repository) -> Basic | IdentityToken | None:
        fitting = [entry for entry in self._entries if entry.fits(repository)]
        return max(fitting, key=lambda entry: entry.rank).credential if fitting else None

    @property
    def registries(self) -> tuple[str, ...]:
        """Host and path of each entry, for messages."""
        return tuple("/".join((entry.host, *entry.path)) for entry in self._entries)

    def __repr__(self) -> str:
        return f"Credentials(registries={list(self.registries)!r})"


def _load(document: bytes | str) -> dict[str, Any] | None:
    if len(document) > _MAX_BYTES:
        raise InvalidCredentials("The pull secret is larger than 1 MiB.")
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        # Not raised from here: a JSON error carries the whole document, and so the secret.
        return None
    return value if isinstance(value, dict) else None


def _entry(key: str, credential: Basic | IdentityToken) -> _Entry:
    text = key.strip().lower().rstrip("/")
    for scheme in ("https://", "http://"):
        text = text.removeprefix(scheme)
    host, *path = text.split("/")
    if path and path[0] in _API_PATHS:
        path = path[1:]
    if not host or "@" in host:
        raise InvalidCredentials("The pull secret has an entry under `auths` without a host.")
    return _Entry(
        DOCKER_HUB if host in _DOCKER_HUB_HOSTS else host, tuple(filter(None, path)), credential
    )


def _host_fits(pattern: str, registry: str) -> bool:
    if pattern == registry:
        return True
    pattern_host, _, pattern_port = pattern.partition(":")
    host, _, port = registry.partition(":")
    if "*" not in pattern_host or pattern_port != port:
        return False
    patterns, labels = pattern_host.split("."), host.split(".")
    return len(patterns) == len(labels) and all(map(fnmatchcase, labels, patterns))


def _credential(auth: Any) -> Basic | IdentityToken | None:
    """None for an empty entry: `docker login` with a helper leaves such."""
    if not isinstance(auth, dict):
        raise InvalidCredentials("The pull secret has an entry under `auths` that is no object.")
    fields = {}
    for name in ("identitytoken", "registrytoken", "auth", "username", "password"):
        fields[name] = auth.get(name) or ""
        if not isinstance(fields[name], str) or _has_surrogates(fields[name]):
            raise InvalidCredentials(f"The pull secret has a `{name}` that is not text.")
    if fields["identitytoken"]:
        return IdentityToken(fields["identitytoken"])
    if fields["auth"]:
        pair = _decode(fields["auth"])
        if pair is None:
            raise InvalidCredentials(
                "The pull secret has an `auth` that is not base64 of `user:password`."
            )
        return Basic(*pair)
    if fields["username"] or fields["password"]:
        if ":" in fields["username"]:
            raise InvalidCredentials("The pull secret has a `username` with a colon.")
        return Basic(fields["username"], fields["password"])
    if fields["registrytoken"]:
        raise InvalidCredentials(
            "The pull secret has a `registrytoken`, which expires and cannot be renewed. "
            "Use user name and password, or an `identitytoken`."
        )
    return None


def _has_surrogates(text: str) -> bool:
    """Half a character, as JSON can have it (`\\ud800`): no header holds it."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def _decode(auth: str) -> tuple[str, str] | None:
    try:
        text = base64.b64decode(auth.strip(), validate=True).decode()
    except ValueError:  # also of what is not ASCII, or not UTF-8
        return None
    username, colon, password = text.partition(":")
    return (username, password.strip("\0")) if colon else None
