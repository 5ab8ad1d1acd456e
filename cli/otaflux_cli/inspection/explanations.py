"""An explanation for people: the decision in one sentence, then every rule that was looked at."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel

from otaflux_cli.outputs import console, table
from otaflux_policy.reasons import DecisionReason
from otaflux_server.attempts import AttemptView
from otaflux_server.checks import Check
from otaflux_server.explaining import ExplainedRing, ExplainedRollout, Explanation

if TYPE_CHECKING:
    from rich.text import Text

Row = tuple[str, str, bool, str]
"""Of a rule: the rollout, what is asked, whether it holds, and why."""

_RULES = {
    "native": "a native client can take it",
    "selector": "is selected",
    "models": "its model fits",
    "min_version": "its version fits",
    "percent": "is within the percentage",
    "counted": "is counted",
}


def sentence(told: Explanation) -> str:
    """What the device gets, and why."""
    if told.release is None:
        what = "gets no update"
    elif told.reason is DecisionReason.UP_TO_DATE:
        what = f"keeps {told.release.version}"
    else:
        what = f"is offered {told.release.version}"
    meaning = told.meaning[:1].lower() + told.meaning[1:]
    return f"{told.namespace}/{told.device} {what} ({told.reason.value}): {meaning}"


def facts(told: Explanation) -> list[tuple[str, str]]:
    """What is known of the device, and of the decision."""
    labels = ", ".join(f"{key}={value}" for key, value in sorted(told.labels.items()))
    lines = [
        ("Rollout", f"{told.rollout}, run {told.run}" if told.rollout else "none"),
        ("Ring", told.ring or "none"),
        ("Device", "has polled" if told.seen else "was never heard of"),
        ("Version", told.version or "unknown"),
        ("Model", told.model or "unknown"),
        ("Labels", labels or "none"),
        ("Groups", ", ".join(told.groups) or "none"),
    ]
    if told.attempt is not None:
        lines.append(("Attempt", _attempt(told.attempt)))
    if told.counts_in:
        where = (f"{name}, ring {ring or 'none'}" for name, ring in sorted(told.counts_in.items()))
        lines.append(("Counts in", "; ".join(where)))
    if told.next_change is not None:
        lines.append(("Next change", f"{_time(told.next_change)}, by time alone"))
    if told.waits_for:
        lines.append(("Waits for", told.waits_for))
    return lines


def rows(told: Explanation) -> list[Row]:
    """Every rule that was looked at, in the order in which it was."""
    found = [("", label, holds, why) for label, holds, why in _checks(told, "")]
    for rollout in told.rollouts:
        found += [(rollout.name, *row) for row in _of_rollout(rollout, told)]
    return found


def show(told: Explanation) -> None:
    """Prints it."""
    from rich.text import Text

    screen = console()
    screen.print(Text(sentence(told), style="bold"), soft_wrap=True)
    screen.print()
    for name, value in facts(told):
        screen.print(Text(f"  {name:<13}{value}"), soft_wrap=True)
    screen.print()
    screen.print(
        table(
            ("Rollout", "Rule", "Holds", "Why"),
            [
                (Text(name), Text(rule), _yes(holds), Text(why))
                for name, rule, holds, why in _once(told)
            ],
        )
    )


def _once(told: Explanation) -> Iterator[Row]:
    """The rows, with the name of a rollout only on its first."""
    before = ""
    for name, rule, holds, why in rows(told):
        yield "" if name == before else name, rule, holds, why
        before = name


def _of_rollout(rollout: ExplainedRollout, told: Explanation) -> Iterator[tuple[str, bool, str]]:
    run = f"run {rollout.run}, target {rollout.target or 'none'}, stable {rollout.stable or 'none'}"
    state = "rolling back" if rollout.rolling_back else rollout.state.value
    yield (
        "decides for the device",
        rollout.chosen,
        f"priority {rollout.priority}, {state}, {run}",
    )
    yield from _checks(rollout, "")
    if rollout.chosen:
        yield from _of_moment(told)
    for ring in rollout.rings:
        yield from _of_ring(ring)


def _of_moment(told: Explanation) -> Iterator[tuple[str, bool, str]]:
    """What the rollout that decides, and the device's ring in it, allow just now."""
    if told.windows is not None:
        when = f"until {_time(told.windows.next_change)}" if told.windows.next_change else ""
        yield (
            "a window is open",
            told.windows.open,
            when if told.windows.windows else "no windows: at any time",
        )
    breaker = told.breaker
    if breaker is not None:
        why = "the ring has no failure rule"
        if breaker.max_percent is not None:
            why = f"opens over {breaker.max_percent} % of at least {breaker.min_sample} outcomes"
        if breaker.failed is not None and breaker.updated is not None:
            why += f"; {breaker.failed} of {breaker.failed + breaker.updated} failed"
        yield "the breaker is closed", not breaker.open, why
    slots = told.slots
    if slots is not None and slots.max_concurrent is not None:
        free = "not known" if slots.free is None else slots.free
        yield (
            f"a slot is free in ring {slots.ring}",
            bool(slots.free),
            f"maxConcurrent {slots.max_concurrent}, free {free}",
        )


def _of_ring(ring: ExplainedRing) -> Iterator[tuple[str, bool, str]]:
    yield (
        f"ring {ring.name}",
        ring.chosen,
        "the device's ring" if ring.chosen else "not the device's ring",
    )
    yield f"  {ring.name}: open", ring.open, "" if ring.open else "not opened in this run yet"
    yield from _checks(ring, f"  {ring.name}: ")


def _checks(model: BaseModel, before: str) -> Iterator[tuple[str, bool, str]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Check):
            yield before + _RULES.get(name, name.replace("_", " ")), value.holds, value.detail


def _attempt(attempt: AttemptView) -> str:
    state = attempt.state.value if attempt.state is not None else "nothing offered"
    text = f"{state} ({attempt.code})" if attempt.code else state
    return text + (f", given up at {_time(attempt.until)}" if attempt.until is not None else "")


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _yes(holds: bool) -> "Text":
    from rich.text import Text

    return Text("yes", style="green") if holds else Text("no", style="yellow")
