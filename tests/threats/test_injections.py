"""Log and metric injection: what devices and policies say makes no line and no label."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from otaflux_policy.decisions import Decision
from otaflux_server.devices import DeviceRecord
from otaflux_server.protocols.native import VersionPoll
from otaflux_server.replies import Reply
from otaflux_server.requests import Request
from tests.server.fleets import Served, serving, settings
from tests.threats.logging_server import FORGED

BOTH = pytest.mark.parametrize("mitigated", [True, False])
ROOT = Path(__file__).parents[2]


@contextmanager
def logging_server(folder: Path, log_format: str, *, mitigated: bool) -> Iterator[str]:
    """The URL of its device port; what it logs is in `folder/log` afterwards."""
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "tests.threats.logging_server",
                str(folder / "data"), log_format, "on" if mitigated else "off",
            ],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
            process.stdin.close()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def say_everything(url: str) -> list[int]:
    """Says the forged text in every place that there is for one; → the statuses."""
    texts = ({"device": FORGED}, *({"device": "a", name: FORGED} for name in ("version", "model")))
    attributes = [{FORGED: "x"}, {"x": FORGED}]
    report = {"device": "a", "release": "1.4.0", "state": "Failed"}
    with httpx.Client(base_url=url, timeout=30) as client:
        return [
            *(client.get(f"/version?{_query(each)}").status_code for each in texts),
            *(client.post("/api/v1/poll", json=each).status_code for each in texts),
            *(
                client.post("/api/v1/poll", json={"device": "a", "attributes": each}).status_code
                for each in attributes
            ),
            *(
                client.post("/api/v1/report", json={**report, name: FORGED}).status_code
                for name in ("release", "code", "message")
            ),
            client.get(f"/{quote(FORGED)}").status_code,
            client.get(f"/t/{quote(FORGED)}/version?device=a").status_code,
        ]


def _query(said: dict[str, str]) -> str:
    return "&".join(f"{name}={quote(text)}" for name, text in said.items())


@BOTH
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_text_makes_a_line(tmp_path: Path, log_format: str, mitigated: bool) -> None:
    with logging_server(tmp_path, log_format, mitigated=mitigated) as url:
        statuses = say_everything(url)
    text = (tmp_path / "log").read_bytes().decode()
    lines = re.split(r"\r\n|[\n\r\x85\u2028]", text.rstrip("\n"))
    if not mitigated:
        assert any(line.startswith("FORGED") for line in lines)
        assert "\x1b]0;owned" in text
        return
    # All are refused but the report whose message is worth keeping.
    assert sorted(statuses) == [200, *[400] * 10, 404, 404]
    assert not any(line.startswith("FORGED") for line in lines)
    assert "\x1b]0;" not in text
    assert "\x1b[31mFORGED" not in text
    if log_format == "json":
        entries = [json.loads(line) for line in lines]
        assert all("event" in entry for entry in entries)
        rejected = [entry for entry in entries if "FORGED" in str(entry.get("why"))]
        assert len(rejected) == 1
    else:
        assert all(re.match(r"(\x1b\[\d+m)*\d{4}-\d\d-\d\d", line) for line in lines)
        assert sum("FORGED" in line for line in lines) == 1


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(settings(tmp_path)) as server:
        server.offer("1.4.0")
        yield server


@BOTH
def test_no_text_makes_a_label(
    served: Served, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """Labels are words of ours: however many devices there are, and whatever they say."""

    def naive(
        poll: VersionPoll,
        request: Request,
        record: DeviceRecord,
        decision: Decision,
        reply: Reply,
        sent: int,
    ) -> None:
        poll.fleet.metrics.polled(poll.protocol, f"{decision.reason}, {record.device.id}")

    if not mitigated:
        monkeypatch.setattr(VersionPoll, "record", naive)

    def shown(what: str) -> tuple[str, int]:
        said: dict[str, Any] = {"device": f"probe-{what}", "version": f"v-{what}", "model": "m"}
        assert served.get(f"/version?{_query(said)}").status == 200
        served.get(f"/firmware?device={said['device']}")
        served.post("/api/v1/poll", json.dumps({**said, "attributes": {"a": what}}).encode())
        report = {"device": said["device"], "release": what, "state": "Failed", "code": what}
        served.post("/api/v1/report", json.dumps(report).encode())
        served.get(f"/{what}")
        text = httpx.get(f"{served.server.internal_url}/metrics", timeout=30).text
        return text, sum(line.startswith("otaflux_") for line in text.splitlines())

    shown("first")
    _, before = shown("second")
    text, after = shown("third")
    assert (after == before) is mitigated
    assert ("probe" in text) is not mitigated
    assert "third" not in text.replace("probe-third", "")
