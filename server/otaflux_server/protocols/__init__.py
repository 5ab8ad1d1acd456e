"""Device protocols. One module each, and one row in `PROTOCOLS`.

Every request takes the same steps, as methods of an `Exchange`:

    identify → observe → (prepare) → decide → (claim → decide) → answer → (it is sent) → record

An answer that begins an offer is claimed before it is given: the offer is in the database then.

A new protocol is a module with a function `exchanges(fleet)` that maps paths to exchanges; a path
that ends with `/` stands for all paths below it. Paths come without the prefix `/t/<namespace>`.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from typing_extensions import override

from otaflux_policy.decisions import Decision
from otaflux_server.artifacts import StoredArtifact
from otaflux_server.devices import DeviceRecord
from otaflux_server.fleet import Asking, Fleet
from otaflux_server.operations import Operation
from otaflux_server.rates import PART_COST, POLL_COST
from otaflux_server.replies import Refused, Reply, text_refusal
from otaflux_server.requests import Request


class Exchange(ABC):
    """One kind of request that devices make in a protocol, and how it is answered."""

    protocol: ClassVar[str]
    """The protocol's name in metrics and records."""

    methods: ClassVar[frozenset[str]]

    described: ClassVar[Operation]
    """What it takes and gives, for `docs/reference/devices.openapi.json`."""

    cost: ClassVar[float] = POLL_COST
    """What a request takes of those that a device may make (`connections.requests_per_second`)."""

    reads_body: ClassVar[bool] = False
    """Whether `identify` needs the request's body."""

    at_once: ClassVar[bool] = False
    """Whether a request is answered by its head alone: no body is read, no artifact is sent."""

    pins: ClassVar[bool] = False
    """Whether the answer pins the device to the artifact that it names."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    @abstractmethod
    def identify(self, request: Request) -> Asking:
        """Who asks, and what it says of itself. Raises Refused."""

    @abstractmethod
    def observe(self, asking: Asking) -> DeviceRecord:
        """Takes note of it."""

    async def prepare(self, record: DeviceRecord) -> None:
        """Reads what the database knows of the device, where it has to be asked."""
        if record.unread:
            await self.fleet.read(record)

    def decide(self, record: DeviceRecord, *, slot: bool = True) -> Decision:
        """What the device gets now; without a `slot` no offer begins."""
        return self.fleet.decide(record, slot=slot)

    @abstractmethod
    def begins(self, request: Request, record: DeviceRecord, decision: Decision) -> bool:
        """Whether the answer would begin an offer."""

    @abstractmethod
    def answer(self, request: Request, record: DeviceRecord, decision: Decision) -> Reply:
        """Says so in the protocol's words."""

    @abstractmethod
    def record(
        self, request: Request, record: DeviceRecord, decision: Decision, reply: Reply, sent: int
    ) -> None:
        """Takes note of what was sent: `sent` bytes of an artifact."""

    def refuse(self, refused: Refused) -> Reply:
        """Says in the protocol's words that a request cannot be used."""
        return text_refusal(refused)


class Poll(Exchange):
    """A device asks whether there is an update."""

    @override
    def observe(self, asking: Asking) -> DeviceRecord:
        return self.fleet.observe(self.protocol, asking)

    @override
    def begins(self, request: Request, record: DeviceRecord, decision: Decision) -> bool:
        offers = decision.release is not None and self.fleet.begins(record)
        return offers and request.method != "HEAD"

    @override
    def record(
        self, request: Request, record: DeviceRecord, decision: Decision, reply: Reply, sent: int
    ) -> None:
        record.reason = decision.reason
        self.fleet.metrics.polled(self.protocol, decision.reason)
        self.fleet.polled(record, decision, answered=request.method != "HEAD")


class Download(Exchange):
    """A device fetches an artifact. A HEAD is no evidence of anything."""

    methods = frozenset({"GET", "HEAD"})
    cost = PART_COST

    @override
    def observe(self, asking: Asking) -> DeviceRecord:
        return self.fleet.notice(self.protocol, asking)

    @override
    def begins(self, request: Request, record: DeviceRecord, decision: Decision) -> bool:
        """A device may come straight for the bytes, or late: the offer is claimed (anew)."""
        if request.method != "GET" or not self.fleet.begins(record):
            return False
        return self.wanted(request, record) is not None

    @abstractmethod
    def wanted(self, request: Request, record: DeviceRecord) -> StoredArtifact | None:
        """What the device asks for, if that is what it gets."""

    @override
    def record(
        self, request: Request, record: DeviceRecord, decision: Decision, reply: Reply, sent: int
    ) -> None:
        artifact = reply.artifact
        if artifact is None or request.method != "GET":
            return
        if sent < reply.length:
            result = "Broken"
        elif sent < artifact.size:
            result = "Part"
        else:
            result = "Complete"
        self.fleet.metrics.downloads.labels(self.protocol, result).inc()
        self.fleet.metrics.download_bytes.labels(self.protocol).inc(sent)
