"""`docs/rollouts.md` tells of every reason, phase, condition, state and field; nothing else."""

from pathlib import Path

import pytest

from scripts.manual_pages import PAGE, Topic, check, shortcomings, topics

ROOT = Path(__file__).parents[1]
TOPIC = Topic("Phases", "phase", {"Open": "It is open.", "Shut": ""}, frozenset({"Ajar"}))
WHOLE = """\
# A page

## Phases

| Phase | Means |
|---|---|
| `Open` | open |
| `Shut`, `Ajar` | shut \\| not open |

## Others

| Other | Means |
|---|---|
| `Elsewhere` | no phase |
"""


def said(text: str) -> str:
    return "\n".join(shortcomings(text, [TOPIC]))


def test_the_manual_tells_of_everything() -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize("topic", [*topics()], ids=lambda topic: topic.section)
def test_a_row_of_the_manual_that_is_taken_away_is_missed(topic: Topic) -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for term in topic.terms:
        # Gone from every table: another section may have a row of the same name.
        gone = text.replace(f"`{term}`", "it")
        assert any(f"`{term}` is missing" in line for line in shortcomings(gone, [topic])), term


def test_a_page_that_tells_of_all_lacks_nothing() -> None:
    assert said(WHOLE) == ""


def test_what_is_missing_is_named_with_a_row_to_write() -> None:
    without = WHOLE.replace("| `Open` | open |\n", "")
    assert 'the phase `Open` is missing: add a row to "Phases"' in said(without)
    assert "| `Open` | It is open. |" in said(without)


@pytest.mark.parametrize(
    "elsewhere",
    [
        "`Open` in a sentence.",
        "| Phase | `Open` |",
        "## Others\n\n| `Open` | of another section |",
        "```\n| `Open` | an example |\n```",
    ],
)
def test_only_a_row_of_the_section_tells_of_it(elsewhere: str) -> None:
    assert "`Open` is missing" in said(WHOLE.replace("| `Open` | open |", elsewhere))


def test_rows_below_further_headings_belong_to_the_section() -> None:
    assert said(WHOLE.replace("| Phase |", "### Some\n\n| Phase |")) == ""


def test_a_row_without_a_meaning_is_refused() -> None:
    assert "the row `Open`" in said(WHOLE.replace("| `Open` | open |", "| `Open` | |"))


def test_a_row_of_what_is_no_more_is_refused() -> None:
    assert "no phase is called `Gone`" in said(WHOLE.replace("`Ajar`", "`Gone`"))


def test_a_section_that_is_missing_is_named() -> None:
    assert 'there is no section "Phases"' in said(WHOLE.replace("## Phases", "## Stages"))


def test_a_page_that_is_missing_is_named(tmp_path: Path) -> None:
    assert PAGE in "".join(check(tmp_path))
