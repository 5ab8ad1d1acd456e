"""The Lease of the one operator that works (coordination.k8s.io/v1).

Not `kubernetes.aio.leaderelection`: it takes the time from the wall clock, ends with the first
connection that fails, waits without a limit for an answer, counts no transitions, cannot give a
Lease back, and offers nothing to ask before a write whether it is still held.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from structlog import get_logger

from otaflux_operator import metrics
from otaflux_operator.kubernetes.apis import MERGE_PATCH, Api, NotFound
from otaflux_operator.ports import Conflict, Unavailable

log = get_logger(__name__)

_RENEWALS = 5
"""Attempts to renew within the time of a Lease."""

_HELD = 2 / 3
"""The part of that time for which a renewal counts: less than others wait, by their clocks."""


class LeaseLost(Exception):
    """Another one holds the Lease, or it could not be renewed in time."""


class NotHeld(Unavailable):
    """Nothing may be written now."""


def steady() -> float:
    """Seconds by a clock that nobody sets, and that goes on while this process is stopped."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


@dataclass(frozen=True, slots=True)
class Taken:
    """`transitions`: how often the Lease changed hands.

    `given`: whoever had it before gave it back, and so surely writes nothing any more.
    """

    transitions: int
    given: bool


class Lease:
    """`name` in `namespace`, for `holder`, over an `api` of its own.

    `seconds` after the last renewal others take it. Renewals and takeovers name the version of the
    Lease that was read, so that of two who try one succeeds.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        holder: str,
        seconds: float,
        clock: Callable[[], float] = steady,
    ) -> None:
        self._api = api
        self._list = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._where = f"{namespace}/{name}"
        self._holder = holder
        self._seconds = seconds
        self._clock = clock
        self._until = float("-inf")
        self._version = ""
        self.seen_at: float | None = None
        """When the Lease was last read or written (`time.monotonic`)."""

    @property
    def is_held(self) -> bool:
        """Whether it is surely held now."""
        return self._clock() < self._until

    def ensure(self) -> None:
        """Raises NotHeld unless it is surely held now."""
        if not self.is_held:
            raise NotHeld(f"the Lease {self._where} is not held (any more)")

    async def take(self) -> Taken:
        """Waits until it is ours."""
        told, seen, since = "", "", 0.0
        while True:
            try:
                found = await self._read()
                if found is None:
                    return await self._create()
                spec, version = found.get("spec") or {}, found["metadata"]["resourceVersion"]
                holder = spec.get("holderIdentity") or ""
                if version != seen:
                    seen, since = version, self._clock()
                waited = self._clock() - since
                if not holder or waited >= float(spec.get("leaseDurationSeconds") or 0):
                    transitions = int(spec.get("leaseTransitions") or 0) + 1
                    await self._write(version, transitions)
                    return Taken(transitions, given=not holder)
                problem = f"held by {holder}"
            except Conflict:
                problem = "another one took it"
            except (Unavailable, NotFound) as error:
                problem = str(error)
            if problem != told:
                log.info("waiting for the Lease", lease=self._where, why=problem)
            told = problem
            await asyncio.sleep(self._pause)

    async def keep(self) -> None:
        """Renews it until that fails. Raises LeaseLost."""
        why = "it could not be renewed in time"
        while self.is_held:
            await asyncio.sleep(self._pause)
            try:
                await self._write(self._version)
            except Conflict:
                holder = await self._holder_now()
                if holder not in (None, self._holder):
                    self._until = float("-inf")
                    why = f"{holder or 'nobody'} holds it"
            except NotFound:
                # Whoever makes it anew need not wait for this one.
                self._until = float("-inf")
                why = "it was deleted"
            except Unavailable as error:
                log.warning("the Lease was not renewed", lease=self._where, why=str(error))
                why = str(error)
        metrics.LEADER.set(0)
        raise LeaseLost(f"the Lease {self._where} is lost: {why}")

    async def release(self) -> None:
        """Gives it back, if it is held: the next one need not wait. Nothing may be written then."""
        held, self._until = self.is_held, float("-inf")
        metrics.LEADER.set(0)
        if not held:
            return
        try:
            await self._patch(self._version, {"holderIdentity": None, "leaseDurationSeconds": 1})
        except (Conflict, NotFound, Unavailable) as error:
            log.warning("the Lease was not given back", lease=self._where, why=str(error))

    @property
    def _pause(self) -> float:
        return self._seconds / _RENEWALS

    async def _read(self) -> dict[str, Any] | None:
        try:
            found = await self._api.get(f"{self._list}/{self._name}")
        except NotFound:
            found = None
        self.seen_at = time.monotonic()
        return found

    async def _holder_now(self) -> str | None:
        """Who holds it (empty: nobody); None: not known. Ours goes on from the version found."""
        try:
            found = await self._read()
        except Unavailable:
            return None
        spec = (found or {}).get("spec") or {}
        if found is not None:
            self._version = found["metadata"]["resourceVersion"]
        return str(spec.get("holderIdentity") or "")

    async def _create(self) -> Taken:
        began = self._clock()
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name},
            "spec": self._spec() | {"acquireTime": _now(), "leaseTransitions": 0},
        }
        try:
            self._holds(await self._api.post(self._list, body), began)
        except NotFound:
            raise Unavailable(f"the namespace of {self._where} does not exist") from None
        return Taken(0, given=False)

    async def _write(self, version: str, transitions: int | None = None) -> None:
        spec = self._spec()
        if transitions is not None:
            spec |= {"acquireTime": _now(), "leaseTransitions": transitions}
        began = self._clock()
        self._holds(await self._patch(version, spec), began)

    async def _patch(self, version: str, spec: dict[str, Any]) -> dict[str, Any]:
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        return await self._api.patch(f"{self._list}/{self._name}", body, kind=MERGE_PATCH)

    def _spec(self) -> dict[str, Any]:
        return {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "renewTime": _now(),
        }

    def _holds(self, written: dict[str, Any], began: float) -> None:
        # From before the request: nobody knows when the API server took it.
        self._until = began + self._seconds * _HELD
        self._version = written["metadata"]["resourceVersion"]
        self.seen_at = time.monotonic()
        metrics.LEADER.set(1)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
