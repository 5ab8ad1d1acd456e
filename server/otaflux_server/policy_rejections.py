"""What is published and refused, and which namespaces that holds."""

from collections.abc import Callable, Mapping

import structlog

from otaflux_policy.rejections import RejectionReason
from otaflux_server.metrics import Metrics
from otaflux_server.policy_files import Key, Kind

log = structlog.get_logger(__name__)

_MAX_WHY = 500


class PolicyRejections:
    """Policies and groups whose published form is refused now; `in_use`: a good one is.

    One that `holds`, because it was surely published and nobody knows whom it would have kept
    back, holds its namespace until it could be read once, or is gone.
    """

    def __init__(self, metrics: Metrics, in_use: Callable[[Kind, Key], bool]) -> None:
        self._metrics = metrics
        self._in_use = in_use
        self._why: dict[tuple[Kind, Key], str] = {}
        self._reasons: dict[tuple[Kind, Key], RejectionReason] = {}
        self._holding: set[tuple[Kind, Key]] = set()
        self.held: frozenset[str] = frozenset()
        """Namespaces in which something could never be read."""

    def all(self) -> Mapping[tuple[Kind, Key], str]:
        """All that is refused, and why."""
        return self._why

    def why(self, kind: Kind, key: Key) -> str:
        """Why it is refused; empty: it is not."""
        return self._why.get((kind, key), "")

    def reason(self, kind: Kind, key: Key) -> RejectionReason | None:
        """The same in a word."""
        return self._reasons.get((kind, key))

    def add(
        self, kind: Kind, key: Key, why: str, reason: RejectionReason, *, holds: bool
    ) -> frozenset[str]:
        """It is refused; told once as long as that stays the same. As `remove`."""
        why = why[:_MAX_WHY]  # it may quote a name of any length
        if self.why(kind, key) != why:
            log.error(
                "published object refused",
                kind=kind,
                namespace=key[0],
                name=key[1],
                reason=str(reason),
                why=why,
            )
            self._metrics.policies_rejected.labels(kind, str(reason)).inc()
        self._why[kind, key], self._reasons[kind, key] = why, reason
        if holds:
            self._holding.add((kind, key))
        return self._count()

    def remove(self, kind: Kind, key: Key) -> frozenset[str]:
        """It is in use, or gone. The namespaces that are held now and were not, or were."""
        if self._why.pop((kind, key), None) is None:
            return frozenset()
        del self._reasons[kind, key]
        self._holding.discard((kind, key))
        return self._count()

    def _count(self) -> frozenset[str]:
        self._metrics.rejected.set(len(self._why))
        held = frozenset(key[0] for kind, key in self._holding if not self._in_use(kind, key))
        for namespace in held - self.held:
            log.error("nothing is offered in the namespace until all can be read", name=namespace)
        changed, self.held = held ^ self.held, held
        return changed
