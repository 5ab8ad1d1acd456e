"""Device protocols. One module each, and one row in `PROTOCOLS`.

Every request takes the same steps, as methods of an `Exchange`:

    identify → observe → decide → answer → (the reply is sent) → record

A new protocol is a module with a function `exchanges(fleet)` that maps paths to exchanges; a path
that ends with `/` stands for all paths below it. Paths come without the prefix `/t/<namespace>`.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from typing_extensions import override

from otaflux_policy.decisions import Decision
from otaflux_server.devices import DeviceRecord
from otaflux_server.fleet import Asking, Fleet
from otaflux_server.replies import Refused, Reply, text_refusal
from otaflux_server.requests import Request


class Exchange(ABC):
    """One kind of request that devices make in a protocol, and how it is answered."""

    protocol: ClassVar[str]
    """The protocol's name in metrics and records."""

    methods: ClassVar[frozenset[str]]

    reads_body: ClassVar[bool] = False
    """Whether `identify` needs the request's body."""

    at_once: ClassVar[bool] = False
    """Whether a request is answered by its head alone: no body is read, no artifact is sent."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    @abstractmethod
    def identify(self, request: Request) -> Asking:
        """Who asks, and what it says of itself. Raises Refused."""

    @abstractmethod
    def observe(self, asking: Asking) -> DeviceRecord:
        """Takes note of it."""

    def decide(self, record: DeviceRecord) -> Decision:
        """What the device gets now."""
        return self.fleet.decide(record)

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
    def record(
        self, request: Request, record: DeviceRecord, decision: Decision, reply: Reply, sent: int
    ) -> None:
        record.reason = decision.reason
        self.fleet.metrics.polled(self.protocol, decision.reason)


class Download(Exchange):
    """A device fetches an artifact. Ranges and heads are no evidence of anything."""

    methods = frozenset({"GET", "HEAD"})

    @override
    def observe(self, asking: Asking) -> DeviceRecord:
        return self.fleet.notice(self.protocol, asking)

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
            self.fleet.transferred(record, artifact)
        self.fleet.metrics.downloads.labels(self.protocol, result).inc()
        self.fleet.metrics.download_bytes.labels(self.protocol).inc(sent)
