"""What the operator makes of the servers' internal API."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from otaflux_operator.ports import Unavailable
from otaflux_operator.servers import HttpUpdateServers
from otaflux_policy.served import ServedRollout

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
