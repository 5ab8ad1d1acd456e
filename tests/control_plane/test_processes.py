"""Server processes: nothing outlives the process that started it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from otaflux_cli.control_plane.processes import (
    CommandFailed,
    Server,
    StartFailed,
    free_port,
    run_command,
)

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]


async def at_once() -> bool:
    return True


async def never() -> bool:
    return False


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


async def test_start_stop_and_start_again(tmp_path: Path) -> None:
    server = Server("sleeper", SLEEPER, tmp_path / "log")
    assert not server.running
    await server.start(at_once)
    first = server.pid
    assert server.running
    with pytest.raises(RuntimeError, match="is running already"):
        await server.start(at_once)
    await server.stop()
    assert not server.running
    assert gone(first)
    await server.start(at_once)
    await server.stop(kill=True)
    await server.stop()


async def test_a_server_that_ends_is_told_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("from an earlier start\n")
    command = [sys.executable, "-c", "import sys; sys.exit('the disk is on fire')"]
    server = Server("burner", command, log)
    with pytest.raises(StartFailed, match=r"burner ended with 1.*\nthe disk is on fire") as failed:
        await server.start(never)
    assert "earlier" not in str(failed.value)


async def test_a_server_that_is_not_ready_in_time_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otaflux_cli.control_plane.processes.READY_WITHIN", 0.0)
    server = Server("sleeper", SLEEPER, tmp_path / "log")
    with pytest.raises(StartFailed, match="is not ready after 0 s"):
        await server.start(never)
    assert not server.running


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
async def test_servers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, pathlib, signal, sys
        from otaflux_cli.control_plane.processes import Server

        async def ready():
            return True

        server = Server("child", [sys.executable, "-c", "import signal; signal.pause()"],
                        pathlib.Path(sys.argv[1]))
        asyncio.run(server.start(ready))
        print(server.pid, flush=True)
        signal.pause()
        """
    )
    with subprocess.Popen(  # noqa: ASYNC220 - fork and exec do not block
        [sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(await asyncio.to_thread(parent.stdout.readline))
        assert not gone(child)
        parent.send_signal(signal.SIGKILL)
        await asyncio.to_thread(parent.wait)
    await wait_until(lambda: gone(child))


async def test_a_failing_command_keeps_its_words() -> None:
    with pytest.raises(CommandFailed, match="ended with 3: no such thing") as failed:
        await run_command(["/bin/sh", "-c", "echo partial; echo no such thing >&2; exit 3"])
    assert failed.value.returncode == 3
    assert failed.value.stdout == "partial\n"


async def test_a_command_gets_input_environment_and_folder(tmp_path: Path) -> None:
    said = await run_command(
        ["/bin/sh", "-c", "cat; echo $GREETING; pwd"],
        input_text="in\n",
        environment={"GREETING": "hello"},
        cwd=tmp_path,
    )
    assert said.split() == ["in", "hello", str(tmp_path)]


async def test_a_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        await run_command(
            ["/bin/sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 300"], timeout=3.0
        )
    assert gone(int((tmp_path / "pid").read_text()))


def test_ports_are_below_those_of_outgoing_connections() -> None:
    assert 15000 <= free_port() < 30000
