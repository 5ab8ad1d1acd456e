"""`explain`, `preview` and `devices` where the server is away, is another, or answers nonsense."""

from collections.abc import Iterator

import pytest

from otaflux_cli.control_plane.processes import free_port
from tests.cli.answering_servers import Answering, answering_server
from tests.cli.commands import otaflux_here as otaflux

COMMANDS = pytest.mark.parametrize(
    "command", [("explain", "kitchen-1"), ("preview", "thermostat"), ("devices",)], ids=" ".join
)


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering_server() as made:
        yield made


@COMMANDS
def test_a_server_that_is_away_is_named_with_what_to_do(command: tuple[str, ...]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = otaflux(*command, "--server", url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"{url} cannot be reached" in ended.stderr
    assert "OTAFLUX_SERVER_URL" in ended.stderr
    assert "kubectl port-forward" in ended.stderr
    assert "Traceback" not in ended.stderr


@COMMANDS
@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>", "none of ours"),
        (200, b"[1]", "none of ours"),
        (200, b"{}", "none of ours"),
        (404, b'{"detail": "Not Found"}', "it knows no such path"),
        (404, b"no update (NoMatch)", "none of ours: status 404"),
        (500, b"Internal Server Error", "failed to answer (500): its log says why"),
        (302, b"", "none of ours: status 302"),
        (
            422,
            b'{"detail": [{"loc": ["path", "namespace"], "msg": "not so"}]}',
            "refuses: namespace: not so",
        ),
    ],
)
def test_an_answer_that_is_none(
    server: Answering, command: tuple[str, ...], status: int, body: bytes, told: str
) -> None:
    server.status, server.body = status, body
    ended = otaflux(*command, "--server", server.url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


@COMMANDS
@pytest.mark.parametrize("url", ["nowhere", "127.0.0.1:8081", "ftp://x", "http://"])
def test_an_address_that_is_none_is_wrong_usage(command: tuple[str, ...], url: str) -> None:
    ended = otaflux(*command, "--server", url)
    assert ended.returncode == 2
    assert "write http://host:port" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("explain", "../x"), "a device id is"),
        (("explain", "kitchen-1", "-o", "yaml"), "'yaml' is not one of"),
        (("devices", "--limit", "0"), "--limit"),
        (("devices", "--seen-within", "soon"), "1h30m"),
        (("explain",), "Missing argument"),
        (("preview",), "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_says_what_to_write(arguments: tuple[str, ...], told: str) -> None:
    ended = otaflux(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
