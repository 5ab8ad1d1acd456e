"""Connections go to the addresses that were checked, and to no other."""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.certificates import write_server_certificate
from otaflux_oci import (
    AddressRefused,
    InvalidReference,
    Limits,
    RegistryClient,
    RegistrySettings,
    RegistryUnreachable,
    Repository,
    Tls,
)
from tests.fixtures.loopback_servers import LoopbackServer, Reply, always
from tests.fixtures.misbehaving_registries import MisbehavingRegistry
from tests.fixtures.name_servers import Names
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, QUICK

NAMED = "registry.test"
ONE = RegistrySettings.model_validate({"allowed_networks": ["127.0.0.1/32"]})


async def manifest(settings: RegistrySettings | None, host: str) -> None:
    async with RegistryClient(settings=settings, insecure=True, limits=QUICK) as client:
        await client.manifest(Repository(host, NAME), "1.4.0")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "0x7f.1"],
)
async def test_loopback_is_refused_in_every_spelling(
    misbehaving: MisbehavingRegistry, host: str
) -> None:
    address = f"{host}:{misbehaving.port}"
    with pytest.raises(AddressRefused, match="OTAFLUX_REGISTRIES__ALLOWED_NETWORKS") as caught:
        await manifest(None, address)
    assert str(caught.value).startswith(f"{host} may not be connected to")
    assert not caught.value.retryable
    assert not misbehaving.received
    await manifest(LOOPBACK, address)


@pytest.mark.parametrize("host", ["0177.0.0.1", "127.0.0.256", "1.2.3.04"])
async def test_an_address_that_is_none(host: str) -> None:
    with pytest.raises(InvalidReference, match="not the name or address"):
        await manifest(LOOPBACK, host)


async def test_the_name_of_a_refused_host_is_told_but_not_its_address(names: Names) -> None:
    names.answers[NAMED] = ["127.0.0.42"]
    with pytest.raises(AddressRefused, match=NAMED) as caught:
        await manifest(None, NAMED)
    assert "127.0.0.42" not in str(caught.value)


async def test_of_mixed_answers_only_the_good_ones_are_tried(
    misbehaving: MisbehavingRegistry, names: Names
) -> None:
    async with LoopbackServer(
        always(Reply(404)), address="127.0.0.2", port=misbehaving.port
    ) as internal:
        for answers in (["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]):
            names.answers[NAMED] = answers
            await manifest(ONE, f"{NAMED}:{misbehaving.port}")
        assert not internal.received
    assert len(misbehaving.received) == 2


async def test_the_next_good_address_is_tried_where_one_is_closed(
    misbehaving: MisbehavingRegistry, names: Names
) -> None:
    names.answers[NAMED] = ["127.0.0.3", "127.0.0.1"]
    await manifest(LOOPBACK, f"{NAMED}:{misbehaving.port}")
    assert len(misbehaving.received) == 1
    names.answers[NAMED] = ["127.0.0.3", "127.0.0.4"]
    with pytest.raises(RegistryUnreachable, match=NAMED):
        await manifest(LOOPBACK, f"{NAMED}:{misbehaving.port}")


async def test_only_a_few_addresses_are_tried(
    misbehaving: MisbehavingRegistry, names: Names
) -> None:
    names.answers[NAMED] = [*(f"127.0.1.{last}" for last in range(1, 200)), "127.0.0.1"]
    with pytest.raises(RegistryUnreachable):
        await manifest(LOOPBACK, f"{NAMED}:{misbehaving.port}")
    assert not misbehaving.received


async def test_tls_and_the_host_header_keep_the_name(tmp_path: Path, names: Names) -> None:
    certificate = write_server_certificate(tmp_path, names=(NAMED,))
    names.answers[NAMED] = ["127.0.0.1"]
    async with MisbehavingRegistry(certificate=certificate) as registry:
        registry.push(NAME, "1.4.0", FIRMWARE)
        host = f"{NAMED}:{registry.port}"
        tls = Tls(ca=certificate.authority.read_bytes())
        async with RegistryClient(settings=LOOPBACK, tls=tls, limits=QUICK) as client:
            await client.manifest(Repository(host, NAME), "1.4.0")
        assert registry.received[0].headers["host"] == host


async def test_a_name_that_does_not_exist(names: Names) -> None:
    names.answers[NAMED] = []
    for host in (NAMED, f"{'x' * 64}.test"):
        with pytest.raises(RegistryUnreachable, match="Is the name right"):
            await manifest(None, host)


async def test_a_name_server_that_hangs_is_given_up_and_holds_up_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()

    def hanging(*_: Any, **__: Any) -> Any:
        released.wait(120)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    limits = Limits(connect_seconds=0.01, backoff_seconds=0.001)
    try:
        async with RegistryClient(insecure=True, limits=limits) as client:
            lookups = [client.digest(Repository(f"{n}.test", NAME), "1.4.0") for n in range(40)]
            ended = await asyncio.gather(*lookups, return_exceptions=True)
            assert {type(error) for error in ended} == {RegistryUnreachable}
            assert "in time" in str(ended[0])
            assert await _elsewhere(lambda: 5) == 5
    finally:
        released.set()


async def _elsewhere(call: Callable[[], int]) -> int:
    async with asyncio.timeout(30):
        return await asyncio.to_thread(call)
