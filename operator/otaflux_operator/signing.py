"""Which of the operator's keys signs what it publishes."""

from collections.abc import Callable, Iterable, Mapping

from structlog import get_logger

from otaflux_operator.ports import Unavailable
from otaflux_policy.contract import Policy
from otaflux_policy.groups import Group
from otaflux_policy.signing import PRIVATE_SUFFIX, InvalidKey, PublicKey, SigningKey, verify

log = get_logger(__name__)


class Signing:
    """The keys as they are now. The last by name signs, once servers take what it has signed.

    While they are not heard of, the one goes on that signed before; where none did, the last.
    """

    def __init__(self) -> None:
        self.problem = "the keys that policies are signed with were not read yet"
        """Why nothing can be signed now; empty: it can."""
        self._keys: tuple[SigningKey, ...] = ()
        self._trusted: frozenset[str] = frozenset()
        self._current = ""
        self._began = False
        self._watchers: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"Signing({', '.join(key.public.id for key in self._keys)})"

    def subscribe(self, watcher: Callable[[], None]) -> None:
        """Has `watcher` called when another key signs, or none can or one can again."""
        self._watchers.append(watcher)

    @property
    def public_keys(self) -> list[PublicKey]:
        """Of every key there is: what servers have to know."""
        return [key.public for key in self._keys]

    def replace(self, keys: Iterable[SigningKey]) -> None:
        """These are the keys from now on, in the order of their names."""
        self._keys = tuple(keys)
        self._change(self._chosen(), "")

    def fail(self, problem: str) -> None:
        """The keys cannot be used now."""
        self._change(self._current, problem)

    def trust(self, ids: Iterable[str]) -> None:
        """Servers told which keys they know."""
        known = frozenset(ids)
        if known and known != self._trusted:
            self._trusted, self._began = known, True
            self._change(self._chosen(), self.problem)

    def sign(self, kind: type[Policy] | type[Group], text: str) -> str:
        """The signature of a canonical text. Raises Unavailable."""
        found = [key for key in self._keys if key.public.id == self._current]
        if self.problem or not found:
            raise Unavailable(self.problem or "there is no key to sign policies with")
        self._began = True
        return found[0].sign(kind, text)

    def is_current(self, kind: type[Policy] | type[Group], text: str, signature: str) -> bool:
        """Whether the key that signs now made the signature.

        Where nothing is signed yet, the key that made this one signs from now on.

        Raises:
            NotSigned: none of the keys did.
        """
        key = verify(kind, text, signature, self.public_keys)
        if not self._began:
            self._current, self._began = key.id, True
        return key.id == self._current

    def _chosen(self) -> str:
        names = [key.public.id for key in self._keys]
        trusted = [name for name in names if name in self._trusted]
        if trusted:
            return trusted[-1]
        return self._current if self._began and self._current in names else names[-1]

    def _change(self, current: str, problem: str) -> None:
        if (current, problem) == (self._current, self.problem):
            return
        if problem and problem != self.problem:
            log.error("nothing can be published", why=problem)
        if current != self._current:
            log.info("policies are signed with another key from now on", key=current)
        self._current, self.problem = current, problem
        for watcher in self._watchers:
            watcher()


def read_keys(data: Mapping[str, bytes]) -> list[SigningKey]:
    """The keys of a signing Secret, in the order of their names.

    Raises:
        InvalidKey: there is none, or one cannot be used; the message names it.
    """
    keys = []
    for name, text in sorted(data.items()):
        if not name.endswith(PRIVATE_SUFFIX):
            continue
        problem = ""
        try:
            keys.append(SigningKey.loads(text))
        except InvalidKey as error:
            problem = str(error)
        if problem:
            raise InvalidKey(f"its {name} cannot be used: {problem}")
    if not keys:
        raise InvalidKey(f"it holds no *{PRIVATE_SUFFIX}")
    return keys
