"""Whether `docs/rollouts.md`, which people write, tells of everything that the code can say.

Each section of the page has tables; the first cell of a row names what the row is about, as code.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from otaflux_operator import reasons as condition_reasons
from otaflux_operator.resources.definitions import definitions
from otaflux_operator.resources.statuses import ConditionType, Phase, RingPhase
from otaflux_policy import reasons as decision_reasons
from otaflux_policy.attempts import AttemptState
from otaflux_policy.evidence import FailureCode

PAGE = "docs/rollouts.md"

_HEADING = re.compile(r"(#+) (.+)")
_CODE = re.compile(r"`([^`]+)`")
_CELLS = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Topic:
    """What one section of the page has to tell of: each term, and what the code says of it.

    `also` may have rows as well.
    """

    section: str
    what: str
    terms: Mapping[str, str]
    also: frozenset[str] = frozenset()


def topics() -> Iterator[Topic]:
    """All sections that are checked."""
    for definition in definitions().values():
        kind = definition["spec"]["names"]["kind"]
        yield Topic(f"Every field of a {kind}", "field", *_fields(definition))
    yield Topic("Phases", "phase", _members(Phase))
    yield Topic("Ring phases", "ring phase", _members(RingPhase))
    yield Topic("Conditions", "condition", _members(ConditionType))
    yield Topic("Condition reasons", "condition reason", _meanings(condition_reasons.MEANINGS))
    yield Topic("Decision reasons", "decision reason", _meanings(decision_reasons.MEANINGS))
    yield Topic("States of a device", "state of an attempt", _members(AttemptState))
    yield Topic("Failure codes", "failure code", _members(FailureCode))


def shortcomings(text: str, checked: Iterable[Topic] | None = None) -> list[str]:
    """What the page lacks, or says of what is no more: one sentence each, with what to write."""
    found = _rows(text)
    return [
        sentence
        for topic in (topics() if checked is None else checked)
        for sentence in _compare(topic, found.get(topic.section))
    ]


def check(root: Path) -> list[str]:
    """`shortcomings` of the page below `root`."""
    file = root / PAGE
    if not file.exists():
        return [f"{PAGE} does not exist: write it, with the sections of scripts/manual_pages.py"]
    return [f"{PAGE}: {sentence}" for sentence in shortcomings(file.read_text(encoding="utf-8"))]


def _compare(topic: Topic, rows: Mapping[str, str] | None) -> Iterator[str]:
    if rows is None:
        yield f'there is no section "{topic.section}": write it, a table row for each {topic.what}'
        return
    for term, said in topic.terms.items():
        row = f"| `{term}` | {said or '…'} |"
        if term not in rows:
            yield (
                f'the {topic.what} `{term}` is missing: add a row to "{topic.section}" that says '
                f"what it means and what to do, such as {row}"
            )
        elif not rows[term]:
            yield f'the row `{term}` of "{topic.section}" is empty: write what it means there'
    for term in rows:
        if term not in topic.terms and term not in topic.also:
            yield (
                f'no {topic.what} is called `{term}`: remove its row from "{topic.section}", or '
                "write the name that it has now"
            )


def _rows(text: str) -> dict[str, dict[str, str]]:
    """For each heading: what its tables name in first cells, and the rest of the row."""
    found: dict[str, dict[str, str]] = {}
    above: list[tuple[int, str]] = []
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        if fenced:
            continue
        if heading := _HEADING.fullmatch(line):
            level = len(heading[1])
            above = [*(entry for entry in above if entry[0] < level), (level, heading[2])]
            found.setdefault(heading[2], {})
        elif line.startswith("|"):
            first, *rest = (cell.strip() for cell in _CELLS.split(line.strip("|")))
            for term in _CODE.findall(first):
                for _, section in above:
                    found[section][term] = " ".join(rest).strip()
    return found


def _members(enum: type[StrEnum]) -> dict[str, str]:
    return {member.value: "" for member in enum}


def _meanings(meanings: Mapping[Any, str]) -> dict[str, str]:
    return {reason.value: text for reason, text in meanings.items()}


def _fields(definition: Mapping[str, Any]) -> tuple[dict[str, str], frozenset[str]]:
    """Fields below `spec` that hold a value, by path; and the paths of those that hold fields."""
    leaves: dict[str, str] = {}
    inner: set[str] = set()
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path, field in _walk("", schema["properties"]["spec"]):
        if "properties" in field.get("items", field):
            inner.add(path.removesuffix("[]"))
        else:
            leaves[path] = field["description"]
    return leaves, frozenset(inner)


def _walk(path: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        below = f"{path}{name}"
        item = field.get("items", {})
        listed = "properties" in item
        yield (f"{below}[]" if listed else below), field
        yield from _walk(f"{below}[]." if listed else f"{below}.", item if listed else field)
