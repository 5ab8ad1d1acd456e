"""Ranges and conditional requests (RFC 9110), and what happens when bytes go missing."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otaflux_server.ranges import Span, Unsatisfiable, matches, parse_range
from tests.server.fleets import Served, firmware, serving, settings

SIZE = 1_000_003
CONTENT = firmware("1.4.0", SIZE)
HEX = hashlib.sha256(CONTENT).hexdigest()
ETAG = f'"sha256:{HEX}"'
PATHS = [f"/artifacts/sha256/{HEX}?device=a", "/firmware?device=a"]
"""Of a device that runs the release, so that nothing it fetches is held against it."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(settings(tmp_path_factory.mktemp("data"))) as server:
        server.offer("1.4.0", CONTENT)
        assert server.get("/version?device=a&version=1.4.0").status == 200
        yield server


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-3", 0, 3),
        ("bytes=0-", 0, SIZE - 1),
        ("bytes=65536-131071", 65536, 131071),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE - 1),
        ("bytes=-1", SIZE - 1, SIZE - 1),
        ("bytes=-1000", SIZE - 1000, SIZE - 1),
        (f"bytes=-{SIZE + 5}", 0, SIZE - 1),
        (f"bytes=999000-{SIZE}", 999000, SIZE - 1),
        ("bytes=999000-99999999999999999999999999", 999000, SIZE - 1),
        ("BYTES = 5 - 9 ", 5, 9),
    ],
)
def test_one_range(served: Served, path: str, asked: str, first: int, last: int) -> None:
    answer = served.get(path, f"Range: {asked}")
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    assert answer.headers["ETag"] == ETAG
    assert answer.body == CONTENT[first : last + 1]
    assert len(answer.head) <= 256


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,5-6",  # several: a multipart body would have no use to any update client
        "bytes=",
        "bytes=-",
        "bytes=x-y",
        "bytes=9-5",
        "lines=0-5",
        "bytes 0-5",
        "bytes=0-5;x",
        "bytes=-٣",
    ],
)
def test_what_is_no_single_range_is_ignored(served: Served, asked: str) -> None:
    answer = served.ask(
        f"GET {PATHS[0]} HTTP/1.1\r\nConnection: close\r\nRange: {asked}\r\n\r\n".encode()
    )
    assert answer.status == 200
    assert "Content-Range" not in answer.headers
    assert answer.body == CONTENT


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "asked",
    [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 1}", "bytes=-0", "bytes=99999999999999999999999-"],
)
def test_past_the_end_is_416(served: Served, path: str, asked: str) -> None:
    answer = served.get(path, f"Range: {asked}")
    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"


def test_a_resumed_download_is_whole(served: Served) -> None:
    got = b""
    while len(got) < SIZE:
        got += served.get(PATHS[0], f"Range: bytes={len(got)}-{len(got) + 65535}").body
    assert got == CONTENT


@pytest.mark.parametrize("path", PATHS)
def test_head_tells_the_size_and_has_no_ranges(served: Served, path: str) -> None:
    answer = served.get(path, "Range: bytes=0-0", method="HEAD")
    assert answer.status == 200
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.body == b""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("condition", [ETAG, f"W/{ETAG}", f'"other", {ETAG}', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_unchanged_is_304(served: Served, path: str, condition: str, method: str) -> None:
    answer = served.get(path, f"If-None-Match: {condition}", "Range: bytes=0-0", method=method)
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["ETag"] == ETAG


def test_changed_is_sent(served: Served) -> None:
    assert served.get(PATHS[0], 'If-None-Match: "sha256:0"').body == CONTENT


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (ETAG, 206),
        (f"W/{ETAG}", 200),
        ('"other"', 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
    ],
)
def test_if_range(served: Served, condition: str, status: int) -> None:
    answer = served.get(PATHS[0], "Range: bytes=5-9", f"If-Range: {condition}")
    assert answer.status == status
    assert answer.body == (CONTENT[5:10] if status == 206 else CONTENT)


@given(
    size=st.integers(0, 50),
    first=st.one_of(st.none(), st.integers(0, 60)),
    last=st.one_of(st.none(), st.integers(0, 60)),
)
@example(size=0, first=0, last=None)
@example(size=5, first=None, last=0)
def test_a_range_is_a_slice(size: int, first: int | None, last: int | None) -> None:
    content = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is None:
        expected = content[-last:] if last else b""
    else:
        expected = content[first : None if last is None else last + 1]
    ignored = (first is None and last is None) or (
        first is not None and last is not None and last < first
    )
    try:
        span = parse_range(header, size)
    except Unsatisfiable:
        assert not ignored
        assert expected == b""
        return
    if ignored:
        assert span is None
        return
    assert span is not None
    assert content[span.start : span.start + span.length] == expected
    assert span.length > 0


@given(st.text(max_size=60), st.integers(0, 2**40))
def test_no_header_is_too_strange(header: str, size: int) -> None:
    with suppress(Unsatisfiable):
        span = parse_range(header, size)
        assert span is None or 0 <= span.start <= span.last < size


def test_last_of_a_span() -> None:
    assert Span(5, 3).last == 7


@pytest.mark.parametrize(
    ("header", "expected"),
    [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("", False)],
)
def test_if_none_match(header: str, expected: bool) -> None:
    assert matches(header, '"a"') is expected


class TestDamage:
    def _path(self, served: Served) -> str:
        target = served.offer("2.0.0", firmware("2.0.0", 50_000))
        served.get("/version?device=d")
        return target.firmware.digest

    @pytest.mark.parametrize("damage", ["gone", "cut"])
    def test_damaged_bytes_are_never_served_and_fetched_again(
        self, tmp_path_factory: pytest.TempPathFactory, damage: str
    ) -> None:
        with serving(settings(tmp_path_factory.mktemp("data"))) as served:
            digest = self._path(served)
            artifact = served.server.artifacts.get(digest)
            assert artifact is not None
            if damage == "gone":
                artifact.path.unlink()
            else:
                artifact.path.write_bytes(artifact.path.read_bytes()[:100])
            answer = served.get("/firmware?device=d")
            assert (answer.status, answer.headers["Connection"]) == (404, "close")
            served.wait(lambda: served.server.artifacts.get(digest) is not None)
            assert served.source.pulls.count(digest) == 2
            served.get("/version?device=d")
            assert served.get("/firmware?device=d").body == firmware("2.0.0", 50_000)
