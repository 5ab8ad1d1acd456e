"""Path traversal on the device port: nothing that a device says becomes the name of a file."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otaflux_server import device_app, requests
from otaflux_server.artifacts import StoredArtifact
from otaflux_server.devices import DeviceRecord
from otaflux_server.protocols import Exchange
from otaflux_server.protocols.json import ArtifactDownload
from otaflux_server.requests import Request
from tests.server.fleets import Answer, Served, firmware, serving, settings

BOTH = pytest.mark.parametrize("mitigated", [True, False])
SECRET = b"the contents of a file that is no artifact"
CONTENT = firmware("1.4.0")
DIGEST_NAMED = re.compile(r"artifacts/sha256/[0-9a-f]{64}")

UPWARDS = [
    "../../secret",
    "..%2f..%2fsecret",
    "..%2F..%2Fsecret",
    "%2e%2e/%2e%2e/secret",
    "..%5c..%5csecret",
    "..%252f..%252fsecret",
    "..%c0%af..%c0%afsecret",
    "%ef%bc%8e%ef%bc%8e/secret",
    "....//....//secret",
    "%00",
    "secret%00" + "a" * 57,
    "a" * 64 + "%0a",
    "A" * 64,
    "%d9%a3" * 64,
    "a" * 5000,
]
REACHING = UPWARDS[:4]
"""Those that bring the file, where names of files are made of them."""
IDS = [
    "..",
    "../a",
    "..%2fa",
    "a%2f..%2fb",
    "a%5cb",
    "a%00",
    "%00a",
    "a%0d%0ab",
    "%e2%80%ae",
    "%ef%bc%8e%ef%bc%8e",
    "%c3%a9",
    "a%cc%81",
    ".a",
    "a" * 129,
    "a" * 8000,
]
NAMESPACES = [
    "..",
    "..%2f..",
    "%2e%2e",
    "home%00",
    "home%0a",
    "a%2fb",
    "HOME",
    "h" * 64,
    "%e2%80%ae",
]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file that is opened to be sent."""
    files: list[str] = []
    really = os.open

    def seen(path: Any, *arguments: Any, **named: Any) -> int:
        files.append(os.fspath(path))
        return really(path, *arguments, **named)

    monkeypatch.setattr(os, "open", seen)
    return files


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "secret").write_bytes(SECRET)
    with serving(settings(tmp_path, connections={"refusals_burst": 1000})) as server:
        server.offer("1.4.0", CONTENT)
        assert server.get("/version?device=a").status == 200
        yield server


def ask(served: Served, path: str) -> Answer:
    return served.ask(f"GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n")


class Below(dict[str, Exchange]):
    """Routes that hold for whatever comes below them, at any depth."""

    def get(self, path: str, default: Any = None) -> Any:
        return next((found for route, found in self.items() if path.startswith(route)), default)


@BOTH
def test_artifacts(
    served: Served, opened: list[str], monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """Without the mitigation the rest of the path is a file's name, as it is tempting to write."""

    def naive(_: ArtifactDownload, request: Request, record: DeviceRecord) -> StoredArtifact | None:
        known = served.server.artifacts.all()[0]
        path = known.path.parent / request.path.removeprefix("/artifacts/sha256/")
        return replace(known, path=path, size=len(SECRET))

    if not mitigated:
        app = served.server.device_app
        monkeypatch.setattr(app, "_below", Below(app._below))
        monkeypatch.setattr(ArtifactDownload, "wanted", naive)
    for name in UPWARDS:
        opened.clear()
        answer = ask(served, f"/artifacts/sha256/{name}?device=a")
        sent = [path for path in opened if "/artifacts/" in path]
        if mitigated:
            assert answer.status in (400, 404)
            assert sent == []
            assert SECRET not in answer.raw
        elif name in REACHING:
            assert answer.body == SECRET
            assert not any(map(DIGEST_NAMED.search, sent))


def test_the_artifact_itself_is_the_only_file_that_is_opened(
    served: Served, opened: list[str]
) -> None:
    opened.clear()
    assert ask(served, "/firmware?device=a").body == CONTENT
    assert len([path for path in opened if DIGEST_NAMED.search(path)]) == 1


@BOTH
@pytest.mark.parametrize("path", ["/version", "/firmware"])
def test_device_ids(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str, mitigated: bool
) -> None:
    if not mitigated:
        monkeypatch.setattr(requests, "device_id", lambda text: text)
    for device in IDS:
        answer = ask(served, f"{path}?device={device}")
        assert (answer.status == 400) is mitigated, device
    known = {device for _, device in served.call(lambda: set(served.server.devices.keys()))}
    assert known == {"a"} if mitigated else {"..", "../a", "a\r\nb", "a\0"} <= known


@BOTH
def test_namespaces(served: Served, monkeypatch: pytest.MonkeyPatch, mitigated: bool) -> None:
    if not mitigated:
        anything = re.compile(r"/t/(?P<namespace>.*)(?P<path>/version)", re.DOTALL)
        monkeypatch.setattr(device_app, "_TENANT", anything)
    for namespace in NAMESPACES:
        assert ask(served, f"/t/{namespace}/version?device=b").status == 404
    known = {namespace for namespace, _ in served.call(lambda: set(served.server.devices.keys()))}
    assert known == {"home"} if mitigated else {"..", "../..", "home\0"} <= known
