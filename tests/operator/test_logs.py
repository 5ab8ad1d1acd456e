"""Lines of libraries: in our format, and one per outage."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from otaflux_operator.kubernetes.outages import QUIET, Outages
from otaflux_operator.logs import Forwarding, log_to_stderr

FAILED = (
    "Request attempt #{}/9 failed; {}: GET https://server/api?watch=true -> ClientConnectorError()"
)


def record(text: str, at: float = 0.0, level: int = logging.ERROR) -> logging.LogRecord:
    made = logging.LogRecord("kopf.x", level, __file__, 1, text, None, None)
    made.created = at
    return made


def test_an_outage_is_one_line_however_many_watches_try_however_often() -> None:
    outages = Outages()
    with capture_logs() as lines:
        for watch in range(3):
            for attempt in range(1, 9):
                outages.emit(record(FAILED.format(attempt, "will retry"), watch + attempt * 20.0))
        assert [line["log_level"] for line in lines] == ["warning"]
        outages.emit(record(FAILED.format(1, "will retry"), 160.0 + 3 * QUIET))
    assert len(lines) == 2
    assert lines[0]["why"] == "GET https://server/api: ClientConnectorError"


def test_what_is_given_up_is_told_and_what_closes_is_not() -> None:
    outages = Outages()
    with capture_logs() as lines:
        outages.emit(record(FAILED.format(1, "will retry")))
        outages.emit(record(FAILED.format(9, "escalating")))
        outages.emit(record("Request attempt #1/9 failed; will retry: x -> Connector is closed."))
        outages.emit(record("Request attempt #2/9 failed; TCP closed; will re-authenticate: x"))
        outages.emit(record("Unresolved resources cannot be served", level=logging.WARNING))
    assert [line["log_level"] for line in lines] == ["warning", "error", "warning"]
    assert lines[2]["event"] == "Unresolved resources cannot be served"
    assert lines[2]["logger"] == "kopf.x"


def test_of_an_error_only_type_and_place_are_told() -> None:
    logger = logging.getLogger("otaflux-test")
    logger.addHandler(handler := Forwarding())
    try:
        with capture_logs() as lines:
            try:
                raise ZeroDivisionError("secret")
            except ZeroDivisionError:
                logger.exception("it failed")
    finally:
        logger.removeHandler(handler)
    assert "secret" not in str(lines)
    assert (lines[0]["event"], lines[0]["error"]) == ("it failed", "ZeroDivisionError")
    assert "test_logs.py" in lines[0]["where"]


class Stderr(io.StringIO):
    """Like a terminal, or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def reset() -> Iterator[None]:
    level = logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.setLevel(level)


@pytest.mark.usefixtures("reset")
@pytest.mark.parametrize("terminal", [True, False])
def test_no_text_makes_a_line(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """Messages of registries and of the API server quote what strangers wrote."""
    forged = "\r\nFORGED\x1b]0;owned\x07\x85FORGED\u2028FORGED"
    stderr = Stderr(terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(logging.root, "handlers", [])
    log_to_stderr("info")
    structlog.get_logger().warning("event not posted", object=forged, why=f"it says {forged}")
    logging.getLogger("kopf.x").warning("it says %s", forged)
    try:
        raise ValueError(forged)
    except ValueError:
        structlog.get_logger().exception("failed")
    text = stderr.getvalue()
    assert "\x1b]0;" not in text
    assert "\x07" not in text
    lines = text.splitlines()
    assert sum("FORGED" in line for line in lines) >= 3
    assert not any(line.startswith("FORGED") for line in lines)
    if not terminal:
        assert [json.loads(line)["level"] for line in lines] == ["warning", "warning", "error"]
