"""The server as a process: command line, settings, signals, shutdown, its data directory."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from otaflux_policy.canonical import dumps
from otaflux_server.fleet import Asking
from otaflux_server.policies import PolicyStore
from otaflux_server.serving import DataDirInUse, UpdateServer
from otaflux_server.settings import Settings, address
from otaflux_server.withdrawals import Withdrawals
from tests.server.fleets import (
    NAMESPACE,
    MemorySource,
    firmware,
    policy,
    release,
    settings,
    until,
    version_body,
)

CONTENT = firmware("1.4.0", 16 << 20)


async def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "otaflux_server.main",
        *arguments,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_help_names_every_setting_and_examples() -> None:
    code, out, _ = await run("--help")
    assert code == 0
    assert "examples:" in out
    for name in ("OTAFLUX_LISTEN", "OTAFLUX_NATIVE__DEFAULT_DEVICE", "OTAFLUX_DATA_DIR"):
        assert name in out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTAFLUX_LISTEN", "nonsense"),
        ("OTAFLUX_PIN_SECONDS", "0"),
        ("OTAFLUX_DEFAULT_NAMESPACE", "Not A Namespace"),
        ("OTAFLUX_NATIVE__DEFAULT_DEVICE", "-"),
        ("OTAFLUX_PUBLIC_URL", "updates.example.com"),
        ("OTAFLUX_WATCH_NAMESPACES", '["-"]'),
    ],
)
async def test_a_wrong_setting_is_named(name: str, value: str, tmp_path: Path) -> None:
    code, _, err = await run(**{name: value, "OTAFLUX_DATA_DIR": str(tmp_path)})
    assert code == 2
    assert name in err
    assert "Traceback" not in err


async def test_an_address_in_use_is_said(tmp_path: Path) -> None:
    async with UpdateServer(settings(tmp_path / "a")) as server:
        taken = server.device_url.removeprefix("http://")
        code, _, err = await run(
            OTAFLUX_DATA_DIR=str(tmp_path / "b"),
            OTAFLUX_LISTEN=taken,
            OTAFLUX_INTERNAL_LISTEN="127.0.0.1:0",
            OTAFLUX_KUBECONFIG=str(tmp_path / "none"),
            OTAFLUX_IDENTITY__KIND="Open",
        )
    assert code == 1
    assert "in use" in err
    assert "Traceback" not in err


async def test_two_servers_never_share_a_data_directory(tmp_path: Path) -> None:
    async with UpdateServer(settings(tmp_path)):
        with pytest.raises(DataDirInUse, match="OTAFLUX_DATA_DIR"):
            async with UpdateServer(settings(tmp_path)):
                pass
    async with UpdateServer(settings(tmp_path)):
        pass


async def test_a_termination_lets_it_end_well(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "otaflux_server.main",
        env=os.environ
        | {
            "OTAFLUX_DATA_DIR": str(tmp_path / "data"),
            "OTAFLUX_LISTEN": "127.0.0.1:0",
            "OTAFLUX_INTERNAL_LISTEN": "127.0.0.1:0",
            "OTAFLUX_KUBECONFIG": str(tmp_path / "none"),
            "OTAFLUX_IDENTITY__KIND": "Open",
            "OTAFLUX_LOG_FORMAT": "json",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    events: list[dict[str, object]] = []
    async with asyncio.timeout(60):
        async for line in process.stderr:
            events.append(json.loads(line))
            if events[-1]["event"] == "serving":
                process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert [event["event"] for event in events][-2:] == ["stopping", "stopped"]


class ListSource:
    """A source that gives one list and waits; `failure` is raised instead."""

    def __init__(self, texts: dict[tuple[str, str], str], failure: Exception | None = None) -> None:
        self.texts = texts
        self.failure = failure

    @property
    def keys(self) -> None:
        """Its policies never leave this process."""

    async def run(self, store: PolicyStore) -> None:
        if self.failure is not None:
            raise self.failure
        store.replace(self.texts, {})
        store.connected()
        await asyncio.Event().wait()


@asynccontextmanager
async def offering(tmp_path: Path, **fields: object) -> AsyncIterator[UpdateServer]:
    target = release("1.4.0", CONTENT)
    source = ListSource({(NAMESPACE, "thermostat"): dumps(policy(target=target))})
    artifacts = MemorySource()
    artifacts.add(CONTENT)
    options = settings(tmp_path, **fields)
    async with UpdateServer(options, source=source, artifact_source=artifacts) as server:
        await until(lambda: server.artifacts.get(target.firmware.digest) is not None)
        yield server


async def connect(server: UpdateServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.device_url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port), limit=1 << 16)


async def test_another_source_is_a_few_lines(tmp_path: Path) -> None:
    async with offering(tmp_path) as server:
        reader, writer = await connect(server)
        writer.write(b"GET /version?device=a HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(version_body("1.4.0", CONTENT))
        writer.close()
        await writer.wait_closed()


async def test_a_running_download_is_finished_before_the_server_ends(tmp_path: Path) -> None:
    async with offering(tmp_path, shutdown_seconds=30) as server:
        reader, writer = await connect(server)
        writer.write(b"GET /version?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(str(len(CONTENT)).encode())
        writer.write(b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
        received = await reader.read(1000)
        ending = asyncio.create_task(server.__aexit__(None, None, None))
        while part := await reader.read(1 << 16):
            received += part
        await ending
        assert received.endswith(CONTENT)
        writer.close()
        await writer.wait_closed()


async def test_a_download_that_never_ends_does_not_hold_the_server(tmp_path: Path) -> None:
    async with offering(tmp_path, shutdown_seconds=0) as server:
        reader, writer = await connect(server)
        writer.write(b"GET /version?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(str(len(CONTENT)).encode())
        writer.write(b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.read(1000)
    writer.close()


async def test_a_source_that_fails_is_said_and_started_again(tmp_path: Path) -> None:
    """Meanwhile the last known policies are served."""
    async with offering(tmp_path):
        pass
    source = ListSource({}, RuntimeError("a bug"))
    async with UpdateServer(settings(tmp_path), source=source) as server:
        await until(lambda: "the policy source failed" in server.policies.disconnection)
        assert server.policies.ready
        assert len(server.policies.policies()) == 1
        source.failure = None
        await until(lambda: not server.policies.disconnection)
        assert server.policies.policies() == []


async def test_what_runs_in_the_background_is_started_again_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[bool] = []
    next_window = Withdrawals._next_window

    def fails_once(withdrawals: Withdrawals) -> float:
        if not failed:
            failed.append(True)
            raise RuntimeError("a fault of ours")
        return next_window(withdrawals)

    monkeypatch.setattr(Withdrawals, "_next_window", fails_once)
    async with offering(tmp_path) as server:
        record = server.fleet.observe("native", Asking(NAMESPACE, "a"))
        server.fleet.decide(record)
        await server.fleet.claim(record, pins=False)
        assert server._learning.offered
        assert failed
        server.policies.remove_policy(NAMESPACE, "thermostat")
        await until(lambda: not server._learning.offered)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        (":8080", ("0.0.0.0", 8080)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["", "8080", "x:", "x:65536", "::1:80", "x:8080x", "x:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        address(text)
    with pytest.raises(ValidationError):
        Settings(listen=text)


def test_every_setting_is_described() -> None:
    for field in Settings.model_fields.values():
        assert field.description
