"""What the operator makes of the servers' internal API."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from otaflux_cli.control_plane.certificates import write_server_certificate
from otaflux_operator import servers as servers_module
from otaflux_operator.ports import Unavailable
from otaflux_operator.servers import HttpUpdateServers
from otaflux_policy.served import ServedRollout
from tests.fixtures.loopback_servers import LoopbackServer, Reply, Request, always

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SERVED = ServedRollout(namespace="home", name="thermostat", run=7)


@asynccontextmanager
async def asking(handler: Handler) -> AsyncIterator[HttpUpdateServers]:
    app = web.Application()
    app.router.add_get("/base/internal/v1/rollouts/home/thermostat", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/base/"
        async with HttpUpdateServers(url) as servers:
            yield servers
    finally:
        await runner.cleanup()


def answering(text: str, status: int = 200) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return answer


async def test_the_answer() -> None:
    async with asking(answering(SERVED.model_dump_json())) as servers:
        assert await servers.served("home", "thermostat") == SERVED


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (answering("", 503), "status 503"),
        (answering("{}"), "something else than a served rollout"),
        (answering("no json"), "something else than a served rollout"),
        (
            answering(SERVED.model_copy(update={"name": "other"}).model_dump_json()),
            "another rollout",
        ),
        (answering("x" * 2_000_000), "more than 1 MiB"),
    ],
)
async def test_what_is_no_answer(handler: Handler, why: str) -> None:
    async with asking(handler) as servers:
        with pytest.raises(Unavailable, match=why):
            await servers.served("home", "thermostat")


async def test_silence_is_no_answer() -> None:
    async with HttpUpdateServers("http://127.0.0.1:9") as servers:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await servers.served("home", "thermostat")
    async with HttpUpdateServers("") as servers:
        with pytest.raises(Unavailable, match="OTAFLUX_SERVER_URL"):
            await servers.served("home", "thermostat")


async def test_one_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "_ANSWER_SECONDS", 0.2)
    ended = asyncio.Event()

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while not ended.is_set():
                await response.write(b" ")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), 0.05)
        return response

    async with asking(drip) as servers:
        with pytest.raises(Unavailable, match="takes longer"):
            await servers.served("home", "thermostat")
        ended.set()


async def test_what_is_packed_is_not_unpacked() -> None:
    async def bomb(_: web.Request) -> web.Response:
        packed = gzip.compress(SERVED.model_dump_json().encode())
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with asking(bomb) as servers:
        with pytest.raises(Unavailable, match="something else than a served rollout"):
            await servers.served("home", "thermostat")


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "OTAFLUX_SERVER_TOKEN_FILE"),
        (403, "OTAFLUX_INTERNAL__SERVICE_ACCOUNTS"),
        (503, "cannot check tokens now"),
    ],
)
async def test_who_is_not_let_in_learns_what_to_look_at(status: int, advice: str) -> None:
    async with asking(answering("", status)) as servers:
        with pytest.raises(Unavailable, match=f"status {status}.*{advice}"):
            await servers.served("home", "thermostat")


class TestTokens:
    """What is sent of the file."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "token"

    async def sent(self, file: Path, *contents: str | None) -> list[str | None]:
        """The header of a request after each content of the file."""
        found: list[str | None] = []

        def answer(request: Request) -> Reply:
            found.append(request.headers.get("authorization"))
            return Reply(body=SERVED.model_dump_json().encode())

        async with (
            LoopbackServer(answer) as server,
            HttpUpdateServers(server.url, token_file=file) as servers,
        ):
            for content in contents:
                if content is None:
                    file.unlink(missing_ok=True)
                else:
                    file.write_text(content)
                await servers.served("home", "thermostat")
        return found

    async def test_it_is_read_again_when_it_changes(self, file: Path) -> None:
        sent = await self.sent(file, "first\n", "second", None, "third")
        assert sent == ["Bearer first", "Bearer second", None, "Bearer third"]

    async def test_what_cannot_be_a_header_is_not_sent(self, file: Path) -> None:
        assert await self.sent(file, "", "two\nlines") == [None, None]

    async def test_one_that_cannot_be_read_is_said(self, tmp_path: Path) -> None:
        async with HttpUpdateServers("http://127.0.0.1:9", token_file=tmp_path) as servers:
            with pytest.raises(Unavailable, match=r"OTAFLUX_SERVER_TOKEN_FILE .*IsADirectory"):
                await servers.served("home", "thermostat")


class TestAuthorities:
    """Of https:// servers."""

    async def test_they_are_read_again_when_they_change(self, tmp_path: Path) -> None:
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        for folder in (ours, theirs):
            folder.mkdir()
        certificate = write_server_certificate(ours)
        other = write_server_certificate(theirs)
        ca = tmp_path / "ca.crt"
        body = SERVED.model_dump_json().encode()
        async with LoopbackServer(always(Reply(body=body)), certificate=certificate) as server:
            async with HttpUpdateServers(server.url, ca=ca) as servers:
                with pytest.raises(Unavailable, match=r"OTAFLUX_SERVER_CA .* cannot be used"):
                    await servers.served("home", "thermostat")
                ca.write_bytes(other.authority.read_bytes())
                with pytest.raises(Unavailable, match=r"not trusted.*OTAFLUX_SERVER_CA"):
                    await servers.served("home", "thermostat")
                part = tmp_path / "part"
                part.write_bytes(certificate.authority.read_bytes())
                part.replace(ca)
                assert await servers.served("home", "thermostat") == SERVED
            async with HttpUpdateServers(server.url) as servers:
                with pytest.raises(Unavailable, match="not trusted"):
                    await servers.served("home", "thermostat")
