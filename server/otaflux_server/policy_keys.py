"""The public keys by which a cluster's policies are signed, and where they come from."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog

from otaflux_policy.contract import Policy
from otaflux_policy.groups import Group
from otaflux_policy.signing import InvalidKey, PublicKey, is_entry_key, verify

log = structlog.get_logger(__name__)

_SUFFIX = ".pub"
_MAX_BYTES = 64 * 1024


class PolicyKeys:
    """The keys that count now. Whoever holds none takes nothing new into use."""

    def __init__(self) -> None:
        self._keys: dict[str, PublicKey] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """Their ids, in order."""
        return tuple(sorted(self._keys))

    @property
    def all(self) -> list[PublicKey]:
        """The keys, in order of their ids."""
        return [self._keys[key] for key in self.ids]

    def replace(self, keys: Iterable[PublicKey]) -> bool:
        """From now on these count and no others; False: they did before."""
        found = {key.id: key for key in keys}
        changed = found != self._keys
        self._keys = found
        return changed

    def verify(self, kind: type[Policy] | type[Group], text: str, signature: str) -> str:
        """The id of the one that has signed the text. Raises NotSigned where none has."""
        return verify(kind, text, signature, self._keys.values()).id

    def dumps(self) -> list[str]:
        """As texts (PEM)."""
        return [key.dumps() for key in self.all]


def keys_of_texts(texts: Mapping[str, bytes]) -> list[PublicKey]:
    """The keys in these texts (PEM); what is none is left out, and said under its name."""
    keys = []
    for name, text in sorted(texts.items()):
        try:
            keys.append(PublicKey.loads(text))
        except InvalidKey as error:
            log.error("a public key of policies cannot be used", key=name, why=str(error))
    return keys


def keys_of_entries(data: Mapping[str, bytes]) -> list[PublicKey]:
    """The keys in the Secret that the operator writes."""
    return keys_of_texts({name: text for name, text in data.items() if is_entry_key(name)})


def texts_of_files(path: Path) -> dict[str, bytes]:
    """The texts at `path`, a file or a folder of `*.pub`; empty, and said, where none is read."""
    texts: dict[str, bytes] = {}
    try:
        files = sorted(path.glob(f"*{_SUFFIX}")) if path.is_dir() else [path]
        for file in files:
            with file.open("rb") as opened:
                texts[file.name] = opened.read(_MAX_BYTES)
    except OSError as error:
        why = error.strerror or type(error).__name__
        log.error("public keys of policies cannot be read", path=str(path), why=why)
    return texts
