"""Random devices and random people against the engine, the decision and the evidence.

Time, wire, database and API server are simulated; everything that decides is real. The default
takes less than a minute; `OTAFLUX_MACHINE_EXAMPLES` and `OTAFLUX_MACHINE_STEPS` make it larger,
and then it is not the same each time.
"""

import os
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    rule,
)

from otaflux_operator.engine import Answer
from otaflux_operator.reasons import Reason
from tests.machine.devices import Devices
from tests.machine.draws import (
    DAY,
    DEEDS,
    FLEET,
    HOUR,
    MINUTE,
    NAMES,
    RINGS,
    SELECTED,
    SPANS,
    TAGS,
    WINDOWS,
)
from tests.machine.operators import Operator
from tests.machine.witnesses import Witness
from tests.operator.worlds import AT_ONCE

EXAMPLES = int(os.environ.get("OTAFLUX_MACHINE_EXAMPLES", "0"))
STEPS = int(os.environ.get("OTAFLUX_MACHINE_STEPS", "20"))


class Rollouts(Devices):
    """One rollout, its people, its devices, and accidents."""

    @initialize(
        rings=RINGS,
        canaries=st.sets(NAMES, max_size=3),
        compatibility=st.sampled_from(
            ({}, {}, {"models": ["thermostat"]}, {"minVersion": "1.0.0"})
        ),
        stable=st.booleans(),
        windows=st.sampled_from((*WINDOWS, [])),
        timeout=st.sampled_from(("30m", "2h", "24h")),
        downgrade=st.sampled_from(("Forbid", "Allow")),
    )
    def begins(
        self,
        rings: list[dict[str, Any]],
        canaries: set[str],
        compatibility: dict[str, Any],
        stable: bool,
        windows: list[dict[str, str]],
        timeout: str,
        downgrade: str,
    ) -> None:
        self.witness = Witness()
        self.tokens = 0
        self.operator = Operator(
            self.witness.saw,
            rings=[{"name": "fleet", **AT_ONCE}] if stable else rings,
            compatibility=compatibility,
            windows=windows,
            deviceTimeout=timeout,
            downgrade=downgrade,
            artifact={"repository": "registry.example.com/firmware/thermostat", "tag": "1.0.0"},
        )
        self.fleet = {name: replace(device) for name, device in FLEET.items()}
        self.canaries = set(canaries)
        self.regroups()
        self.operator.resolve()
        if stable:
            self.operator.settle()
            self.operator.spec(rings=rings)
            self.operator.wants("1.1.0")
        self.operator.settle()

    # People

    @rule(tag=st.sampled_from(TAGS), content=st.sampled_from(("", "", "", "rebuilt")))
    def another_tag(self, tag: str, content: str) -> None:
        self.operator.registry[tag] = f"{tag} {content}" if content else tag
        self.operator.wants(tag)

    @rule(
        rings=st.sets(st.sampled_from(sorted(SELECTED)), max_size=4),
        release=st.sampled_from(("current", "current", *TAGS)),
        effect=st.sampled_from(("Gate", "Gate", "Override")),
    )
    def approved(self, rings: set[str], release: str, effect: str) -> None:
        """The approvals are these, and no others any more."""
        current = self.operator.status.release
        if release == "current":
            release = current.version if current is not None else "1.0.0"
        known = {ring["name"] for ring in self.operator.manifest["spec"]["rings"]}
        self.operator.spec(
            approvals=[
                {"ring": ring, "release": release, "effect": effect}
                for ring in sorted(rings & known)
            ]
        )

    @rule(
        tag=st.sampled_from(TAGS),
        course=st.sampled_from(DEEDS),
        names=st.sets(NAMES, min_size=1, max_size=4),
        seconds=SPANS,
    )
    def ships(self, tag: str, course: str, names: set[str], seconds: int) -> None:
        """A release with every approval that it needs."""
        rings = [ring["name"] for ring in self.operator.manifest["spec"]["rings"]]
        self.operator.spec(approvals=[{"ring": ring, "release": tag} for ring in rings])
        self.operator.wants(tag)
        self.goes_by(course, names, seconds, days=1)

    @rule(
        tag=st.sampled_from(TAGS),
        late=st.integers(1, 4),
        age=st.sampled_from((0, 65)),
        minutes=st.integers(0, 90),
    )
    def ships_while_servers_are_slow(self, tag: str, late: int, age: int, minutes: int) -> None:
        """They store and count late, and what they say is old when it is heard."""
        rings = [ring["name"] for ring in self.operator.manifest["spec"]["rings"]]
        self.operator.passes(minutes * MINUTE)
        self.operator.spec(approvals=[{"ring": ring, "release": tag} for ring in rings])
        self.operator.wants(tag)
        if not age:
            self.operator.settle(late=late)
            return
        self.operator.look(waits=False)
        self.operator.serve()
        self.operator.passes(age)
        self.operator.look()

    @rule(
        tag=st.sampled_from(TAGS),
        state=st.sampled_from(("Paused", "Aborted")),
        offered=st.sets(NAMES, max_size=3),
        resumes=st.booleans(),
    )
    def is_stopped_in_flight(self, tag: str, state: str, offered: set[str], resumes: bool) -> None:
        rings = [ring["name"] for ring in self.operator.manifest["spec"]["rings"]]
        self.operator.spec(
            state="Active", approvals=[{"ring": ring, "release": tag} for ring in rings]
        )
        self.operator.wants(tag)
        self.settles()
        for name in sorted(offered):
            self.acts(name, "only polls")
        self.operator.spec(state=state)
        self.goes_by("only polls", offered, seconds=HOUR, days=1)
        if resumes:
            self.operator.spec(state="Active")
            self.settles()

    @rule(tag=st.sampled_from(TAGS), other=st.sampled_from(TAGS), seconds=SPANS)
    def a_failed_release_comes_again(self, tag: str, other: str, seconds: int) -> None:
        self.operator.spec(state="Active")
        self.ships(tag, "fails", set(FLEET), seconds)
        self.operator.spec(state="Aborted")
        self.settles()
        self.operator.spec(state="Active")
        self.ships(other, "updates", set(), seconds)
        self.ships(tag, "updates", set(), seconds)

    @rule(names=st.sets(NAMES, min_size=1), seconds=SPANS, tag=st.sampled_from(TAGS))
    def fails_and_is_overridden(self, names: set[str], seconds: int, tag: str) -> None:
        """A person opens every ring of what fails; the operator restarted before."""
        self.ships(tag, "fails", names, seconds)
        self.operator.restarts()
        self.operator.look()
        rings = [ring["name"] for ring in self.operator.manifest["spec"]["rings"]]
        self.operator.spec(
            approvals=[{"ring": ring, "release": tag, "effect": "Override"} for ring in rings]
        )
        self.goes_by("updates", set(), seconds, days=1)

    @rule(aborts=st.booleans())
    def runs_again(self, aborts: bool) -> None:
        if aborts:
            self.operator.spec(state="Aborted")
            self.settles()
        self.tokens += 1
        self.operator.spec(state="Active", retryToken=f"again-{self.tokens}")
        self.settles()

    @rule(state=st.sampled_from(("Active", "Active", "Paused", "Aborted")))
    def another_state(self, state: str) -> None:
        self.operator.spec(state=state)

    @rule(token=st.sampled_from(("", "a", "b")))
    def retried(self, token: str) -> None:
        self.operator.spec(retryToken=token, state="Active")

    @rule(rings=RINGS)
    def other_rings(self, rings: list[dict[str, Any]]) -> None:
        self.set_rings(rings)

    @rule(edit=st.sampled_from(("goes", "first", "limit", "no limit")), place=st.integers(0, 3))
    def a_ring_is_edited(self, edit: str, place: int) -> None:
        rings = [dict(ring) for ring in self.operator.manifest["spec"]["rings"]]
        ring = rings.pop(place % len(rings))
        match edit:
            case "goes" if rings:
                self.set_rings(rings)
            case "first" if ring["name"] == "canary":
                self.set_rings([ring, *rings])
            case "limit" | "no limit":
                rings.insert(place % (len(rings) + 1), ring)
                ring.pop("maxConcurrent", None)
                self.set_rings(
                    [ring | ({"maxConcurrent": 1} if edit == "limit" else {}) for ring in rings]
                )

    def set_rings(self, rings: list[dict[str, Any]]) -> None:
        names = {ring["name"] for ring in rings}
        approvals = self.operator.manifest["spec"].get("approvals", [])
        kept = [known for known in approvals if known["ring"] in names]
        self.operator.spec(rings=rings, approvals=kept)

    @rule(
        downgrade=st.sampled_from(("Forbid", "Allow")),
        windows=st.sampled_from(WINDOWS),
        confirmation=st.sampled_from(("Auto", "Auto", "Reported", "Polled")),
    )
    def other_fields(
        self, downgrade: str, windows: list[dict[str, str]], confirmation: str
    ) -> None:
        self.operator.spec(downgrade=downgrade, windows=windows, confirmation=confirmation)

    @rule(to=st.sampled_from(("", *TAGS)), current=st.booleans())
    def rolled_back_by_hand(self, to: str, current: bool) -> None:
        if not to:
            self.operator.manifest["spec"].pop("rollback", None)
            self.operator.spec()
            return
        release = self.operator.status.release
        from_ = release.version if current and release is not None else "1.1.0"
        self.operator.spec(rollback={"from": from_, "to": to})

    # Time, accidents, and the operator

    @rule(seconds=st.sampled_from((30, 61, 10 * MINUTE, HOUR, 14 * HOUR, DAY, 8 * DAY)))
    def time_passes(self, seconds: int) -> None:
        self.operator.passes(seconds)

    @rule(
        soaks=st.booleans(),
        back=st.sampled_from((5, HOUR, 2 * DAY)),
        then=st.sampled_from((0, 11 * MINUTE, HOUR)),
    )
    def the_clock_is_set_back(self, soaks: bool, back: int, then: int) -> None:
        if soaks:
            self.goes_by("updates", set(), 30, days=1)
        self.operator.jumps_back(back)
        # By what it heard before, which is of the future now.
        self.operator.look()
        if then:
            self.operator.passes(then)
            self.operator.look()
        self.settles()
        self.operator.passes(then)
        self.settles()

    @rule(
        accident=st.sampled_from(
            (
                "the registry fails",
                "the registry fails for good",
                "the operator restarts",
                "the servers are lost",
                "the artifacts are lost",
                "the evidence is copied",
                "the evidence is restored",
                "the evidence is restored at once",
            )
        )
    )
    def accident(self, accident: str) -> None:
        operator = self.operator
        match accident:
            case "the registry fails" | "the registry fails for good":
                lasting = accident.endswith("for good")
                operator.fails(Reason.REGISTRY_UNREACHABLE, lasting=lasting)
            case "the operator restarts":
                operator.restarts()
                operator.look()
            case "the servers are lost":
                operator.answer = Answer(operator.answer.said, operator.answer.at, "no route")
            case "the artifacts are lost":
                self.server.stored.clear()
                for name in sorted(self.fleet):
                    self.acts(name, "only polls")
            case "the evidence is copied":
                self.server.copy()
            case "the evidence is restored":
                self.server.restore()
            case "the evidence is restored at once":
                self.server.copy()
                self.operator.passes(1)
                self.server.restore()

    @rule(place=st.integers(0, 9), seconds=st.sampled_from((0, 61, 11 * MINUTE, HOUR)))
    def an_old_answer_comes_late(self, place: int, seconds: int) -> None:
        self.operator.passes(seconds)
        if self.operator.answers:
            old = self.operator.answers[-1 - place % len(self.operator.answers)]
            self.operator.answer = Answer(old.said, self.operator.now)
            self.operator.look()

    @rule(stored=st.booleans(), counted=st.booleans(), stops=st.booleans())
    def servers_answer_and_operator_looks(self, stored: bool, counted: bool, stops: bool) -> None:
        self.operator.serve(stored=stored, counted=counted)
        self.operator.look(stops=stops)

    @rule(stops=st.booleans())
    def operator_looks(self, stops: bool) -> None:
        """Once; `stops`: between the write of the policy and that of the status."""
        self.operator.look(stops=stops)

    @invariant()
    def counts_hold(self) -> None:
        self.server.check()


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(
    max_examples=EXAMPLES or 70,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize=not EXAMPLES,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
