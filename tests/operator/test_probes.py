"""`/healthz` and `/metrics` of the operator."""

import time

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from otaflux_operator import probes
from otaflux_operator.operating import Operator
from otaflux_operator.probes import Probes
from tests.operator.fakes import Cluster


class Probed:
    operator: Operator | None = None
    seen_at: float | None = None


async def get(server: Probes, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://{server.address}{path}")


async def test_metrics() -> None:
    registry = CollectorRegistry()
    Counter("things", "What is counted.", registry=registry).inc(3)
    async with Probes("127.0.0.1:0", Probed(), registry) as server:
        response = await get(server, "/metrics")
    assert "things_total 3.0" in response.text


async def test_health_is_that_the_api_server_was_reached_lately(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probed = Probed()
    probed.operator = Operator(Cluster().ports)
    async with Probes("127.0.0.1:0", probed, CollectorRegistry()) as server:
        assert (await get(server, "/healthz")).status_code == 200
        monkeypatch.setattr(probes, "STALE", 0.0)
        assert (await get(server, "/healthz")).status_code == 503
        monkeypatch.setattr(probes, "STALE", 300.0)
        probed.operator.swept_at = time.monotonic() - 1000
        probed.operator.trouble = "apply the CRDs"
        response = await get(server, "/healthz")
        assert response.status_code == 503
        assert "apply the CRDs" in response.text
        probed.operator.swept_at = time.monotonic()
        assert (await get(server, "/healthz")).status_code == 200


async def test_one_that_waits_for_the_lease_is_healthy_while_it_can_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probed = Probed()
    async with Probes("127.0.0.1:0", probed, CollectorRegistry()) as server:
        server._started -= 1000
        assert (await get(server, "/healthz")).status_code == 503
        probed.seen_at = time.monotonic()
        assert (await get(server, "/healthz")).status_code == 200
        probed.seen_at -= 1000
        assert (await get(server, "/healthz")).status_code == 503


async def test_without_an_address_nothing_listens() -> None:
    async with Probes("", Probed(), CollectorRegistry()) as server:
        with pytest.raises(AssertionError):
            _ = server.address
