"""What is remembered of policies and groups also once they are gone: nothing older comes back."""

from collections.abc import Callable
from typing import TypeVar

from otaflux_policy.canonical import InvalidPolicy
from otaflux_policy.contract import Policy
from otaflux_policy.groups import Group
from otaflux_policy.rejections import RejectionReason
from otaflux_server.policy_files import NOTHING, ByKey, Key, Kind, Saved

REMEMBERED = 10_000
"""Names with a run, and objects with an (epoch, sequence); beyond it those are forgotten of which
nothing is in use, the one written first before others."""

KEYS = 8
"""Keys of which marks are remembered of one object: those by which it was signed last."""

Name = TypeVar("Name")
Value = TypeVar("Value")


class PolicyMarks:
    """The highest run of each rollout's name, and the highest (epoch, sequence) of each object.

    `in_use` tells whether an object is: such a name is never forgotten. Of a name that is not known
    only what is newer than all that was forgotten comes into use. What was signed with a key counts
    while `keys` gives its id: nobody who once stole a key sets a mark for good.
    """

    def __init__(
        self, in_use: Callable[[Kind, Key], bool], keys: Callable[[], tuple[str, ...]]
    ) -> None:
        self._in_use = in_use
        self._keys = keys
        self._epochs: dict[str, int] = {}
        self.runs: dict[Key, int] = {}
        self.written: dict[tuple[Kind, Key], ByKey] = {}
        self.forgotten: ByKey = {}
        """The highest of those that are forgotten."""

    def restore(self, saved: Saved) -> None:
        """Takes up what an earlier process knew."""
        self.runs, self.written, self.forgotten = saved.runs, saved.written, saved.forgotten
        for marks in (self.forgotten, *self.written.values()):
            for signer, (epoch, _) in marks.items():
                self._epochs[signer] = max(epoch, self._epochs.get(signer, 0))

    @property
    def epoch(self) -> int:
        """The highest of all that count."""
        return max(self._epochs.get(signer, 0) for signer in ("", *self._keys()))

    def ran(self, key: Key, run: int) -> bool:
        """Notes a run; False where as high a one is known."""
        if run <= self.runs.get(key, 0):
            return False
        _remember(self.runs, key, run, lambda old: self._in_use("policies", old))
        return True

    def wrote(self, kind: Kind, key: Key, item: Policy | Group, signer: str) -> None:
        """Notes that the item is in use; `signer` empty: an earlier process looked at it."""
        marks = self.written.get((kind, key), {})
        if not signer and marks:
            return
        _raise(marks, {signer: (item.epoch, item.sequence)})
        self._epochs[signer] = max(item.epoch, self._epochs.get(signer, 0))
        gone = _remember(self.written, (kind, key), marks, lambda old: self._in_use(*old))
        _raise(self.forgotten, gone or {})

    def check(
        self, kind: Kind, key: Key, item: Policy | Group, current: Policy | Group | None
    ) -> None:
        """Raises InvalidPolicy unless the item is `current`, or newer than all that were."""
        if current is not None and current.revision == item.revision:
            return
        marks = self.written.get((kind, key), self.forgotten)
        known = max(marks.get(signer, NOTHING) for signer in ("", *self._keys()))
        if (item.epoch, item.sequence) <= known:
            raise InvalidPolicy(
                f"it is not newer (epoch {item.epoch}, sequence {item.sequence}) than one that was "
                f"in use (epoch {known[0]}, sequence {known[1]})",
                RejectionReason.REPLAYED,
            )


def check_sequence(item: Policy | Group, current: Policy | Group | None) -> None:
    """Where nothing is signed: raises InvalidPolicy for a policy older than the one in use.

    A re-created rollout counts anew.
    """
    if not isinstance(item, Policy) or not isinstance(current, Policy):
        return
    if item.created_at > current.created_at:
        return
    if (item.epoch, item.sequence) < (current.epoch, current.sequence):
        raise InvalidPolicy(
            f"the policy is older (epoch {item.epoch}, sequence {item.sequence}) than the one "
            f"in use (epoch {current.epoch}, sequence {current.sequence})",
            RejectionReason.REPLAYED,
        )


def _raise(marks: ByKey, others: ByKey) -> None:
    for signer, written in others.items():
        marks[signer] = max(written, marks.pop(signer, NOTHING))
    while len(marks) > KEYS:
        del marks[next(iter(marks))]


def _remember(
    known: dict[Name, Value], name: Name, value: Value, in_use: Callable[[Name], bool]
) -> Value | None:
    """What was forgotten for it."""
    known.pop(name, None)
    known[name] = value
    if len(known) > REMEMBERED:
        oldest = next((old for old in known if old != name and not in_use(old)), None)
        if oldest is not None:
            return known.pop(oldest)
    return None
