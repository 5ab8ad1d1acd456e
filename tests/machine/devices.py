"""What simulated devices do, one by one and all together."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
)

from otaflux_policy.attempts import AttemptState
from otaflux_policy.groups import Group, Groups
from tests.machine.draws import COURSES, DEEDS, MINUTE, NAMES, SPANS, Simulated
from tests.machine.operators import Operator
from tests.machine.servers import Server
from tests.machine.witnesses import Witness


class Devices(RuleBasedStateMachine):
    """The part of the machine that is devices."""

    operator: Operator
    witness: Witness
    fleet: dict[str, Simulated]
    canaries: set[str]

    @property
    def server(self) -> Server:
        """The server that they ask."""
        return self.operator.server

    def regroups(self) -> None:
        names = tuple(sorted(self.canaries))
        group = Group(namespace="home", name="canaries", names=names, labels={"ring": "canary"})
        self.server.regroup(Groups([group]))

    def exchange(self, name: str) -> Any:
        device = self.fleet[name]
        said = device.version if device.reports else None
        self.operator.passes(1)
        return self.server.poll(name, said, device.model)

    def acts(self, name: str, course: str) -> None:
        """One device asks, and does what it does."""
        device, server = self.fleet[name], self.server
        if course == "lies":
            policy = server.policy
            version = policy.target.version if policy and policy.target else "1.1.0"
            server.poll(name, version, device.model)
            return
        if course == "talks garbage":
            server.poll(name, "\x00 not a version", device.model)
            return
        decision = self.exchange(name)
        release = decision.release
        if release is None or release.version == device.version or course == "only polls":
            return
        whole = course != "vanishes"
        self.operator.passes(1)
        if server.fetch(name, whole=whole) is None or not whole:
            return
        self.operator.passes(1)
        match course:
            case "fails":
                server.report(name, AttemptState.FAILED, "E_FLASH")
                self.exchange(name)
            case "reverts":
                server.report(name, AttemptState.INSTALLING)
                old, device.version = device.version, release.version
                self.exchange(name)
                device.version = old
                self.exchange(name)
            case "downloads again and again":
                for _ in range(2):
                    self.operator.passes(5)
                    server.fetch(name, whole=True)
                self.exchange(name)
            case "leaves the installation open":
                server.report(name, AttemptState.INSTALLING)
            case _:
                if device.reports:
                    server.report(name, AttemptState.INSTALLING)
                device.version = release.version
                self.exchange(name)
                if not device.reports:
                    self.operator.passes(61)
                    self.exchange(name)

    @rule(name=NAMES, course=COURSES, version=st.sampled_from(("0.9.0", "1.0.0", "3.0.0")))
    def a_device_acts(self, name: str, course: str, version: str) -> None:
        match course:
            case "fetches late":
                if name in self.server.known:
                    self.server.fetch(name, whole=True)
            case "is pruned":
                self.server.forget(name)
            case "is flashed by hand":
                self.fleet[name].version = version
                self.exchange(name)
            case "changes groups":
                self.canaries ^= {name}
                self.regroups()
            case _:
                self.acts(name, course)

    @rule(
        course=st.sampled_from(DEEDS), names=st.sets(NAMES, min_size=1, max_size=4), seconds=SPANS
    )
    def a_day_goes_by(self, course: str, names: set[str], seconds: int) -> None:
        self.goes_by(course, names, seconds, days=1)

    @rule(seconds=SPANS)
    def days_go_well(self, seconds: int) -> None:
        self.goes_by("updates", set(), seconds, days=2)

    @rule(
        names=st.sets(NAMES, min_size=1, max_size=4),
        replaced=st.sampled_from((True, True, False)),
        after=st.sampled_from((0, 6 * MINUTE)),
        seconds=SPANS,
    )
    def devices_relapse(self, names: set[str], replaced: bool, after: int, seconds: int) -> None:
        """All goes well for a while, then some run another version, and recover.

        `replaced`: others of the same name come instead, which is no failure.
        """
        self.goes_by("updates", set(), after, days=1)
        good = {name: self.fleet[name].version for name in sorted(names)}
        for name in good:
            if replaced:
                self.server.forget(name)
            self.fleet[name].version = "0.9.0"
            self.exchange(name)
        self.settles()
        self.operator.passes(seconds)
        self.settles()
        for name, version in good.items():
            self.fleet[name].version = version
            self.exchange(name)
        self.settles()
        self.operator.passes(seconds)
        self.settles()

    def goes_by(self, course: str, names: set[str], seconds: int, days: int) -> None:
        """Everybody does what there is to do, and some do not as they should."""
        self.settles()
        for _ in range(days):
            for name in sorted(self.fleet):
                self.acts(name, course if name in names else "updates")
            self.settles()
            self.operator.passes(seconds)
            self.settles()

    @rule()
    def settles(self) -> None:
        operator = self.operator
        operator.resolve()
        operator.settle()
        assert operator.last is not None
        self.witness.settled(operator.last)
