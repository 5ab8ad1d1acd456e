"""The demo from its first to its last line, and that it leaves nothing behind."""

import asyncio
import os
import secrets
import signal
import sys
from pathlib import Path

import pytest

from otaflux_cli.demo.backdrops import FIRST, RINGS, SECOND
from otaflux_cli.demo.clusters import PARTS
from tests.fixtures.servers import require_parts

CEILING = 120.0
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)


class Demo:
    """A demo in a process of its own, with a folder for all that it writes."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder / "temporary"
        self.folder.mkdir()
        self.mark = f"OTAFLUX_DEMO_TEST={secrets.token_hex(8)}"
        name, value = self.mark.split("=")
        self._arguments = arguments
        self._environment = {
            **os.environ,
            "TMPDIR": str(self.folder),
            "COLUMNS": "200",
            name: value,
            **environment,
        }
        self.output = ""

    async def run(self, until: str = "", then: signal.Signals = signal.SIGTERM) -> int:
        """To its end, or sends `then` once a line holds `until`; the exit code."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "otaflux_cli.main", "demo", "--plain", *self._arguments),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(CEILING):
                assert process.stdout is not None
                async for line in process.stdout:
                    self.output += line.decode()
                    if until and until in line.decode():
                        process.send_signal(then)
                        until = ""
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def left(self) -> list[str]:
        """Command lines of processes that it started and that still run, and its files."""
        found = [str(path) for path in self.folder.iterdir()]
        for process in Path("/proc").iterdir():
            try:
                if self.mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found


def told(output: str) -> None:
    """Asserts that the story was told in its order."""
    places = [output.index(f"{FIRST} goes out ring by ring")]
    for ring in RINGS:
        for phase in ("open", "complete"):
            places.append(output.index(f"ring {ring}: {phase}", places[-1]))
    assert output.index("ring canary: enough devices run it, soaking") < places[2]
    for line in (
        f"{FIRST} is the stable release",
        f"{SECOND} is a bad release",
        "ring canary: open",
        "The breaker opened.",
        f"devices run {FIRST} again",
        "RolledBack",
        "Nothing is left running",
    ):
        places.append(output.index(line, places[-1]))
    assert places == sorted(places)
    assert "Traceback" not in output


@needs_proc
async def test_ended_early_it_leaves_nothing(tmp_path: Path) -> None:
    demo = Demo(tmp_path, "--standalone", "--pause", "0")
    assert await demo.run("is the stable release", signal.SIGINT) == 130, demo.output
    assert "The breaker opened" not in demo.output
    assert demo.left() == []


@needs_proc
async def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux ends children with their parent")
    demo = Demo(tmp_path, "--standalone", "--pause", "0")
    assert await demo.run("is the stable release", signal.SIGKILL) == -signal.SIGKILL
    async with asyncio.timeout(30):
        while True:
            if not [line for line in demo.left() if not line.startswith("/")]:
                return
            await asyncio.sleep(0.05)


@needs_proc
async def test_the_story_is_told_without_kubernetes_and_kept_up(tmp_path: Path) -> None:
    demo = Demo(tmp_path, "--standalone", "--pause", "0", "--keep")
    assert await demo.run("log  ", signal.SIGINT) == 0, demo.output
    told(demo.output)
    assert "It stays up until Ctrl-C" in demo.output
    assert "otaflux rollouts" in demo.output, "how to look around"
    assert demo.left() == []


@needs_proc
async def test_without_a_control_plane_it_says_so_and_goes_on(tmp_path: Path) -> None:
    demo = Demo(
        tmp_path,
        *("--pause", "0"),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        OTAFLUX_CONTROL_PLANE="go",
        PATH=str(tmp_path),
        HOME=str(tmp_path),
    )
    assert await demo.run(f"{FIRST} is the stable release", signal.SIGTERM) == 130, demo.output
    assert "No control plane can be had here" in demo.output
    assert "make demo-standalone" in demo.output, "named before a build of minutes"
    assert demo.left() == []


@needs_proc
@pytest.mark.servers
async def test_the_story_is_told_on_kubernetes(tmp_path: Path) -> None:
    require_parts(*PARTS)
    demo = Demo(tmp_path, "--pause", "0")
    assert await demo.run() == 0, demo.output
    told(demo.output)
    assert "kubectl patch fwr thermostat" in demo.output
    assert demo.left() == []


@needs_proc
@pytest.mark.servers
async def test_ended_early_it_leaves_nothing_of_kubernetes(tmp_path: Path) -> None:
    require_parts(*PARTS)
    demo = Demo(tmp_path, "--pause", "0")
    assert await demo.run("OCI registry at", signal.SIGTERM) == 130, demo.output
    assert demo.left() == []
