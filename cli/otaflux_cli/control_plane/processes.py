"""Server processes that never outlive the process that started them.

Each server writes to a log file; when it does not come up, the end of that
file is part of the error. Start servers from the main thread: Linux ends them
with the *thread* that started them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

READY_WITHIN = 60.0
STOP_WITHIN = 15.0
_POLL = 0.05
_TAIL_LINES = 25

# Becomes the server by exec after asking the kernel to kill it with its parent
# (prctl PR_SET_PDEATHSIG, which exec keeps). Not preexec_fn: that may deadlock
# in a process with threads.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class StartFailed(Exception):
    """A server ended, or did not become ready; carries the end of its log."""


class CommandFailed(Exception):
    """A command ended with an error. ``returncode``, ``stdout`` and ``stderr`` as it gave them."""

    def __init__(self, command: str, returncode: int, stdout: str, stderr: str) -> None:
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(f"{command} ended with {returncode}: {stderr.strip() or stdout.strip()}")


def bound_to_parent(command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` (absolute path first) until this process ends."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


class Server:
    """One server process: start, stop, start again with the same command line."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not started")
        return self._process.pid

    async def start(self, ready: Callable[[], Awaitable[bool]]) -> None:
        """Start and wait until ``ready()``; raises StartFailed and leaves nothing behind."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: ASYNC220 - fork and exec do not block
                bound_to_parent(self._command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                # A Ctrl-C in the terminal is for the parent, which then stops us in order.
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_WITHIN
        try:
            while not await ready():
                if not self.running:
                    raise StartFailed(
                        f"{self.name} ended with {self._process.returncode}; {self._log_tail()}"
                    )
                if time.monotonic() > deadline:
                    raise StartFailed(
                        f"{self.name} is not ready after {READY_WITHIN:.0f} s; {self._log_tail()}"
                    )
                await asyncio.sleep(_POLL)
        except BaseException:
            await self.stop(kill=True)
            raise

    async def stop(self, *, kill: bool = False) -> None:
        """End the process: asked first, killed after ``STOP_WITHIN`` or at once with ``kill``."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        deadline = time.monotonic() + STOP_WITHIN
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                break
            await asyncio.sleep(_POLL)
        self._process = None

    def _log_tail(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        text = "\n".join(lines[-_TAIL_LINES:]) or "(empty)"
        return f"the end of its log ({self.log}):\n{text}"


async def run_command(
    command: Sequence[str],
    *,
    input_text: str | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120.0,
) -> str:
    """Run a command to its end and return its standard output.

    Raises CommandFailed on any other exit code than 0, TimeoutError after
    ``timeout`` seconds. The command is killed when the caller is cancelled.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL if input_text is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
    )
    try:
        stdout, stderr = await asyncio.wait_for(
            process.communicate(None if input_text is None else input_text.encode()), timeout
        )
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise CommandFailed(
            " ".join([Path(command[0]).name, *command[1:]]),
            process.returncode,
            stdout.decode(errors="replace"),
            stderr.decode(errors="replace"),
        )
    return stdout.decode()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on.

    From below the range that Linux gives to outgoing connections, so that
    nobody takes it while a server is stopped to be started again.
    """
    for _ in range(1000):
        port = random.randint(15000, 29999)
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free TCP port on 127.0.0.1 between 15000 and 29999")
