"""Repositories, tags and digests as text.

Grammar: distribution-spec ("Pulling manifests": `<name>`, `<reference>`) and, for the
registry part and the Docker Hub short forms, the `distribution/reference` grammar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import InvalidReference

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")
_SEGMENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_LENGTH = 255

DOCKER_HUB = "docker.io"
_DOCKER_HUB_NAMES = {"docker.io", "index.docker.io", "registry-1.docker.io"}


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 digest, the only algorithm accepted here."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, order=True)
class Repository:
    """`registry` (host with optional port) and `name` ("firmware/thermostat").

    Always valid and normal: `Repository.parse(str(r)) == r`. The registry is lower case,
    the aliases of Docker Hub are `docker.io`, its one-word names get their `library/`.
    Raises InvalidReference.
    """

    registry: str
    name: str

    def __post_init__(self) -> None:
        registry = self.registry.lower()
        name = self.name
        if _REGISTRY.fullmatch(registry) is None or not _looks_like_registry(registry):
            raise InvalidReference(
                "The registry has to be a host name with a dot, an address, or `localhost`, "
                "with an optional port: registry.example.com or registry.example.com:5000."
            )
        port = registry.rpartition(":")[2]
        if port.isdigit() and ":" in registry and not 0 < int(port) < 65536:
            raise InvalidReference(f"Port {port} of the registry is not between 1 and 65535.")
        if registry in _DOCKER_HUB_NAMES:
            registry = DOCKER_HUB
            if name and "/" not in name:
                name = f"library/{name}"
        if _NAME.fullmatch(name) is None:
            raise InvalidReference(
                "The repository name has to be lower case letters and digits, joined by `.`, "
                "`_`, `-` or `/`: firmware/thermostat."
            )
        if len(registry) + 1 + len(name) > _MAX_LENGTH:
            raise InvalidReference(f"The repository is longer than {_MAX_LENGTH} characters.")
        object.__setattr__(self, "registry", registry)
        object.__setattr__(self, "name", name)

    @classmethod
    def parse(cls, text: str) -> Repository:
        """`[registry/]name`, without scheme, tag or digest. Raises InvalidReference.

        Without a registry it is Docker Hub, as for every other tool.
        """
        # The text is not repeated in these messages: it may hold `user:password@`.
        if "://" in text:
            raise InvalidReference(
                "A repository has no scheme: write registry.example.com/firmware/thermostat "
                "(and `insecure: true` for plain http)."
            )
        if "@" in text:
            raise InvalidReference(
                "A repository has no `@`: put a digest into `digest`, credentials into a Secret."
            )
        if len(text) > _MAX_LENGTH:
            raise InvalidReference(f"The repository is longer than {_MAX_LENGTH} characters.")
        head, slash, rest = text.partition("/")
        registry, name = (
            (head, rest) if slash and _looks_like_registry(head) else (DOCKER_HUB, text)
        )
        if ":" in name:
            raise InvalidReference("A repository has no tag: put it into `tag`.")
        return cls(registry, name)

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"


def _looks_like_registry(text: str) -> bool:
    return "." in text or ":" in text or text.lower() == "localhost"


def require_tag(text: str) -> str:
    """`text` if it is a tag, else InvalidReference."""
    if not is_tag(text):
        raise InvalidReference(
            f"{text[:140]!r} is not a tag: letters, digits, `.`, `_` and `-`, at most 128."
        )
    return text


def require_digest(text: str) -> str:
    """`text` if it is a digest, else InvalidReference."""
    if not is_digest(text):
        raise InvalidReference(
            f"{text[:140]!r} is not a digest: write sha256: and 64 lower case hex digits."
        )
    return text
