"""What is published and refused, and which namespaces that holds."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from otaflux_policy.rejections import RejectionReason
from otaflux_server.metrics import Metrics
from otaflux_server.policy_files import Key, Kind

log = structlog.get_logger(__name__)

_MAX_WHY = 500


class Rejected(NamedTuple):
    """Why something is refused: for people, and in a word."""

    why: str
    reason: RejectionReason


class PolicyRejections:
    """Policies and groups whose published form is refused now; `in_use`: a good one is.

    One that `holds`, because it was surely published and nobody knows whom it would have kept
    back, holds its namespace until it could be read once, or is gone.
    """

    def __init__(self, metrics: Metrics, in_use: Callable[[Kind, Key], bool]) -> None:
        self._metrics = metrics
        self._in_use = in_use
        self._rejected: dict[tuple[Kind, Key], Rejected] = {}
        self._holding: set[tuple[Kind, Key]] = set()
        self.held: frozenset[str] = frozenset()
        """Namespaces in which something could never be read."""

    def all(self) -> Mapping[tuple[Kind, Key], Rejected]:
        """All that is refused, and why."""
        return self._rejected

    def of(self, kind: Kind, key: Key) -> Rejected | None:
        """Why it is refused; None: it is not."""
        return self._rejected.get((kind, key))

    def add(
        self, kind: Kind, key: Key, why: str, reason: RejectionReason, *, holds: bool
    ) -> frozenset[str]:
        """It is refused; told once as long as that stays the same. As `remove`."""
        why = why[:_MAX_WHY]  # it may quote a name of any length
        before = self.of(kind, key)
        if before is None or before.why != why:
            log.error(
                "published object refused",
                kind=kind,
                namespace=key[0],
                name=key[1],
                reason=str(reason),
                why=why,
            )
            self._metrics.policies_rejected.labels(kind, str(reason)).inc()
        self._rejected[kind, key] = Rejected(why, reason)
        if holds:
            self._holding.add((kind, key))
        return self._count()

    def remove(self, kind: Kind, key: Key) -> frozenset[str]:
        """It is in use, or gone. The namespaces that are held now and were not, or were."""
        if self._rejected.pop((kind, key), None) is None:
            return frozenset()
        self._holding.discard((kind, key))
        return self._count()

    def _count(self) -> frozenset[str]:
        self._metrics.rejected.set(len(self._rejected))
        held = frozenset(key[0] for kind, key in self._holding if not self._in_use(kind, key))
        for namespace in held - self.held:
            log.error("nothing is offered in the namespace until all can be read", name=namespace)
        changed, self.held = held ^ self.held, held
        return changed
