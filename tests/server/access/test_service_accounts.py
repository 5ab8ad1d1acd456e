"""ServiceAccounts: what the API server says of their tokens, and for how long it is believed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_server.access.callers import AccessRefusal, CallerRefused
from otaflux_server.access.service_accounts import (
    NO_SECONDS,
    YES_SECONDS,
    ServiceAccounts,
    TokenReviews,
)
from otaflux_server.serving import UpdateServer
from tests.server.fleets import settings

AUDIENCE = "otaflux-server"
OPERATOR = "otaflux-system:otaflux-operator"
GOOD: dict[str, Any] = {
    "authenticated": True,
    "audiences": [AUDIENCE],
    "user": {"username": f"system:serviceaccount:{OPERATOR}"},
}


class Reviews(TokenReviews):
    """Says `answer` of every token; None: it cannot be asked. `gate` holds what asks."""

    def __init__(self, answer: dict[str, Any] | None) -> None:
        super().__init__(None, AUDIENCE)
        self.answer = answer
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def status(self, token: str) -> dict[str, Any]:
        self.asked.append(token)
        await self.gate.wait()
        if self.answer is None:
            raise CallerRefused(AccessRefusal.REVIEW_UNAVAILABLE, "nobody answers")
        return self.answer


class Callers:
    """`ServiceAccounts` with a clock that a test turns."""

    def __init__(self, answer: dict[str, Any] | None) -> None:
        self.reviews = Reviews(answer)
        self.now = 1000.0
        self.accounts = ServiceAccounts([OPERATOR], AUDIENCE, self.reviews, lambda: self.now)

    async def refusal(self, token: str = "a.b.c") -> AccessRefusal | None:
        try:
            await self.accounts.check(token)
        except CallerRefused as refused:
            return refused.reason
        return None


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (GOOD, None),
        ({}, AccessRefusal.TOKEN_UNKNOWN),
        ({**GOOD, "authenticated": False}, AccessRefusal.TOKEN_UNKNOWN),
        ({**GOOD, "authenticated": "true"}, AccessRefusal.TOKEN_UNKNOWN),
        ({**GOOD, "audiences": None}, AccessRefusal.TOKEN_UNKNOWN),
        ({**GOOD, "audiences": ["https://kubernetes"]}, AccessRefusal.TOKEN_UNKNOWN),
        ({**GOOD, "user": None}, AccessRefusal.OTHER_CALLER),
        ({**GOOD, "user": {"username": OPERATOR}}, AccessRefusal.OTHER_CALLER),
        (
            {**GOOD, "user": {"username": f"system:serviceaccount:{OPERATOR}x"}},
            AccessRefusal.OTHER_CALLER,
        ),
        (None, AccessRefusal.REVIEW_UNAVAILABLE),
    ],
)
async def test_what_is_believed(
    status: dict[str, Any] | None, reason: AccessRefusal | None
) -> None:
    assert await Callers(status).refusal() is reason


async def test_a_yes_is_kept_a_minute_and_not_longer() -> None:
    callers = Callers(GOOD)
    assert await callers.refusal() is None
    callers.reviews.answer = None
    callers.now += YES_SECONDS - 1
    assert await callers.refusal() is None
    callers.now += 1
    assert await callers.refusal() is AccessRefusal.REVIEW_UNAVAILABLE
    assert YES_SECONDS <= 60


async def test_a_no_is_kept_a_few_seconds() -> None:
    callers = Callers({})
    assert await callers.refusal() is AccessRefusal.TOKEN_UNKNOWN
    callers.reviews.answer = GOOD
    assert await callers.refusal() is AccessRefusal.TOKEN_UNKNOWN
    callers.now += NO_SECONDS
    assert await callers.refusal() is None


async def test_what_could_not_be_asked_is_asked_again() -> None:
    callers = Callers(None)
    assert await callers.refusal() is AccessRefusal.REVIEW_UNAVAILABLE
    callers.reviews.answer = GOOD
    assert await callers.refusal() is None


async def test_each_token_is_judged_by_itself() -> None:
    callers = Callers(GOOD)
    assert await callers.refusal("a") is None
    callers.reviews.answer = {}
    assert await callers.refusal("b") is AccessRefusal.TOKEN_UNKNOWN
    assert await callers.refusal("a") is None


async def test_many_requests_make_one_review() -> None:
    callers = Callers(GOOD)
    callers.reviews.gate.clear()
    asking = [asyncio.create_task(callers.refusal()) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()  # the one that began it goes away
    await asyncio.sleep(0)
    callers.reviews.gate.set()
    assert await asyncio.gather(*asking[1:]) == [None] * 49
    assert callers.reviews.asked == ["a.b.c"]


async def test_what_is_asked_and_known_is_bounded() -> None:
    callers = Callers({})
    callers.reviews.gate.clear()
    asking = [asyncio.create_task(callers.refusal(f"token {number}")) for number in range(100)]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    await asyncio.sleep(0)
    assert len(callers.reviews.asked) == 4
    callers.reviews.gate.set()
    found = await asyncio.gather(*asking)
    assert found.count(AccessRefusal.REVIEW_UNAVAILABLE) == 36
    for number in range(2000):
        await callers.refusal(f"other {number}")
    assert len(callers.accounts._refused) == 1024


async def test_who_sends_tokens_at_random_keeps_nobody_else_out() -> None:
    callers = Callers(GOOD)
    assert await callers.refusal("good") is None
    callers.reviews.answer = {}
    for number in range(1100):
        await callers.refusal(f"random {number}")
    assert await callers.refusal("good") is None  # still known
    callers.now += YES_SECONDS
    callers.reviews.answer = GOOD
    callers.reviews.gate.clear()
    waiting = [asyncio.create_task(callers.refusal(f"more {number}")) for number in range(64)]
    await asyncio.sleep(0)
    assert await callers.refusal("one more") is AccessRefusal.REVIEW_UNAVAILABLE
    good = asyncio.create_task(callers.refusal("good"))
    await asyncio.sleep(0)
    callers.reviews.gate.set()
    assert await good is None
    await asyncio.gather(*waiting)


class TestOnAnApiServer:
    """With real tokens."""

    @pytest.fixture
    async def accounts(self, control_plane: ControlPlane, namespace: str) -> str:
        for name in ("operator", "stranger"):
            await control_plane.kubectl("-n", namespace, "create", "serviceaccount", name)
        return namespace

    @pytest.fixture
    async def api(
        self, control_plane: ControlPlane, accounts: str, tmp_path: Path
    ) -> AsyncIterator[httpx.AsyncClient]:
        internal = {"service_accounts": [f"{accounts}:operator"]}
        options = settings(tmp_path, internal=internal, kubeconfig=control_plane.kubeconfig)
        async with (
            UpdateServer(options) as server,
            httpx.AsyncClient(base_url=server.internal_url) as client,
        ):
            yield client

    async def status(self, api: httpx.AsyncClient, token: str) -> int:
        headers = {"Authorization": f"Bearer {token.strip()}"}
        answer = await api.get("/internal/v1/rollouts", headers=headers)
        assert token not in answer.text
        return answer.status_code

    async def token(
        self, plane: ControlPlane, namespace: str, name: str, audience: str = AUDIENCE
    ) -> str:
        return await plane.kubectl(
            "-n", namespace, "create", "token", name, f"--audience={audience}"
        )

    async def test_the_operators_is_taken_and_no_other(
        self, control_plane: ControlPlane, accounts: str, api: httpx.AsyncClient
    ) -> None:
        good = await self.token(control_plane, accounts, "operator")
        assert await self.status(api, good) == 200
        stranger = await self.token(control_plane, accounts, "stranger")
        assert await self.status(api, stranger) == 403
        other = await self.token(control_plane, accounts, "operator", "somebody-else")
        assert await self.status(api, other) == 401
        plain = await control_plane.kubectl("-n", accounts, "create", "token", "operator")
        assert await self.status(api, plain) == 401
        head, body, signature = good.strip().split(".")
        forged = f"{head}.{body}.{signature[:-8]}AAAAAAAA"
        assert await self.status(api, forged) == 401
        assert (await api.get("/internal/v1/rollouts")).status_code == 401
        assert (await api.get("/readyz")).status_code in (200, 503)

    async def test_one_of_an_account_that_is_gone(
        self, control_plane: ControlPlane, accounts: str, api: httpx.AsyncClient
    ) -> None:
        good = await self.token(control_plane, accounts, "operator")
        await control_plane.kubectl("-n", accounts, "delete", "serviceaccount", "operator")
        assert await self.status(api, good) == 401

    async def test_without_the_api_server_nobody_gets_in(
        self, control_plane: ControlPlane, accounts: str, tmp_path: Path
    ) -> None:
        good = await self.token(control_plane, accounts, "operator")
        config = control_plane.kubeconfig.read_text()
        lost = tmp_path / "kubeconfig"
        lost.write_text(config.replace(control_plane.url, "https://127.0.0.1:9"))
        internal = {"service_accounts": [f"{accounts}:operator"]}
        options = settings(tmp_path / "data", internal=internal, kubeconfig=lost)
        async with (
            UpdateServer(options) as server,
            httpx.AsyncClient(base_url=server.internal_url) as client,
        ):
            assert await self.status(client, good) == 503
            assert (await client.get("/healthz")).status_code == 200
