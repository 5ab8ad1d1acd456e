"""Builders for the server's tests: firmware, releases, policies, and a server to talk to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from otaflux_oci import (
    BlobStream,
    Descriptor,
    Manifest,
    OciError,
    RegistryUnreachable,
    Repository,
    Source,
)
from otaflux_policy.attempts import AttemptState
from otaflux_policy.canonical import dumps, seal
from otaflux_policy.contract import Artifact, Policy, Release, Ring
from otaflux_policy.facts import Facts
from otaflux_policy.groups import Group
from otaflux_policy.selectors import DeviceSelector
from otaflux_server.devices import DeviceRecord
from otaflux_server.serving import UpdateServer
from otaflux_server.settings import Settings
from tests.fixtures.oci_sources import LOOPBACK

Result = TypeVar("Result")

NAMESPACE = "home"
REPOSITORY = "registry.example.com/firmware/thermostat"
CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def digest_of(content: bytes) -> str:
    return "sha256:" + sha256(content).hexdigest()


def firmware(version: str, size: int = 4096) -> bytes:
    """Bytes that differ by version and repeat nowhere near."""
    seed = sha256(version.encode()).digest()
    blocks = (sha256(seed + i.to_bytes(4, "big")).digest() for i in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def release(version: str, content: bytes | None = None, **fields: Any) -> Release:
    content = firmware(version) if content is None else content
    artifact: dict[str, Any] = {
        "digest": digest_of(content),
        "size": len(content),
        "media_type": "application/octet-stream",
        "repository": REPOSITORY,
    }
    return Release(
        version=version,
        digest=digest_of(b"manifest of " + version.encode()),
        artifacts=(Artifact(**(artifact | fields)),),
    )


def policy(name: str = "thermostat", **fields: Any) -> Policy:
    """Everybody gets `target`, in one open ring, unless fields say otherwise."""
    values: dict[str, Any] = {
        "namespace": NAMESPACE,
        "created_at": CREATED,
        "device_selector": DeviceSelector(),
        "run": 1,
        "rings": (Ring(name="all", open=True),),
        "device_timeout": 86400,
        "active_within": 604800,
    }
    return seal(Policy(name=name, **(values | fields)))


def group(name: str, **fields: Any) -> Group:
    return seal(Group(namespace=fields.pop("namespace", NAMESPACE), name=name, **fields))


@dataclass
class MemorySource:
    """Artifacts from memory; `failures` are raised first, one per pull; `gate` holds pulls before
    their first byte, `closing` after their last one."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    failures: list[OciError] = field(default_factory=list)
    pulls: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    closing: asyncio.Event | None = None
    running: int = 0
    most_running: int = 0

    def __call__(self, artifact: Artifact) -> AbstractAsyncContextManager[Source]:
        return self._opened()

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Source]:
        yield self
        if self.closing is not None:
            await self.closing.wait()

    def add(self, content: bytes) -> str:
        self.blobs[digest_of(content)] = content
        return digest_of(content)

    async def manifest(self, repository: Repository, reference: str) -> Manifest:
        raise AssertionError("the update server pulls by digest alone")

    async def digest(self, repository: Repository, tag: str) -> str:
        raise AssertionError("the update server pulls by digest alone")

    async def tags(self, repository: Repository) -> list[str]:
        raise AssertionError("the update server pulls by digest alone")

    async def referrers(self, repository: Repository, digest: str) -> list[Descriptor]:
        raise AssertionError("the update server looks at no signatures")

    def blob(
        self, repository: Repository, descriptor: Descriptor, *, offset: int = 0
    ) -> BlobStream:
        return BlobStream(self._parts(descriptor))

    async def _parts(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        self.pulls.append(descriptor.digest)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
            content = self.blobs.get(descriptor.digest)
            if content is None:
                raise RegistryUnreachable("nobody answers")
            size = max(1000, len(content) // 100)
            for start in range(0, len(content), size):
                yield content[start : start + size]
                await asyncio.sleep(0)
        finally:
            self.running -= 1


def settings(data_dir: Path, **fields: Any) -> Settings:
    values: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "internal_listen": "127.0.0.1:0",
        "internal": {"authentication": "None"},
        "data_dir": data_dir,
        "default_namespace": NAMESPACE,
        "shutdown_seconds": 1,
        "artifacts": {"retry_seconds": 0.01, "max_retry_seconds": 0.05},
        "registries": LOOPBACK,
        "identity": {"kind": "Open"},
    }
    return Settings(**(values | fields))


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30) -> None:
    """Waits until `condition` holds."""
    async with asyncio.timeout(seconds):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.005)


class Served:
    """A server on a loop and a thread of its own, for tests that talk through plain sockets."""

    def __init__(self, server: UpdateServer, source: MemorySource, loop: Any) -> None:
        self.server = server
        self.source = source
        self._loop = loop

    def call(self, function: Callable[[], Result]) -> Result:
        """Runs `function` on the server's loop."""
        done: Future[Result] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result(30)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs `work` on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def apply(self, *published: Policy | Group) -> None:
        policies = self.server.policies

        def run() -> None:
            for item in published:
                apply = policies.apply_policy if isinstance(item, Policy) else policies.apply_group
                assert apply(item.namespace, item.name, dumps(item))

        self.call(run)

    def remove(self, name: str) -> None:
        self.call(lambda: self.server.policies.remove_policy(NAMESPACE, name))

    def offer(self, version: str, content: bytes | None = None, **fields: Any) -> Release:
        """Publishes a policy whose target is `version`, and waits until all of it is stored."""
        content = firmware(version) if content is None else content
        self.source.add(content)
        target = release(version, content)
        self.publish(target=target, **fields)
        return target

    def publish(self, **fields: Any) -> None:
        """Publishes a policy with these fields, and waits until its releases are stored."""
        item = policy(**fields)
        for known in item.releases:
            if known.firmware.digest == digest_of(firmware(known.version)):
                self.source.add(firmware(known.version))
        self.apply(item)
        for known in item.releases:
            self.stored(known)

    def stored(self, known: Release) -> None:
        """Waits until the release's bytes are stored."""
        digest = known.firmware.digest
        self.wait(lambda: self.server.artifacts.get(digest) is not None)

    def wait(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Waits until `condition` holds on the server's loop."""

        running = asyncio.run_coroutine_threadsafe(until(condition, seconds), self._loop)
        running.result(seconds + 5)

    def record(self, device: str) -> DeviceRecord:
        """What is known of the device."""
        record = self.server.devices.get(NAMESPACE, device)
        assert record is not None
        return record

    def facts(self, device: str, run: int = 1, rollout: str = "thermostat") -> Facts:
        """The facts of the device's only attempt in this run."""

        def find() -> Facts:
            attempts = self.record(device).attempts.get(rollout, {})
            found = [facts for ref, facts in attempts.items() if ref.run == run]
            assert len(found) <= 1
            return found[0] if found else Facts()

        return self.call(find)

    def state(self, device: str, rollout: str = "thermostat") -> AttemptState | None:
        """How far the device's deciding attempt is."""

        def find() -> AttemptState | None:
            server, record = self.server, self.record(device)
            decided = server.policies.policy(NAMESPACE, rollout)
            assert decided is not None
            known = record.attempts.get(rollout, {})
            now = datetime.fromtimestamp(server.decisions._clock(), UTC)
            assessed = server.decisions.assess(decided, known, reports=record.reports, now=now)
            return None if assessed.standing is None else assessed.standing.state

        return self.call(find)

    def reason(self, device: str, said: str = "") -> str:
        """Polls natively; why the device gets what it gets."""
        self.get(f"/version?device={device}{said}")
        return self.call(lambda: str(self.record(device).reason))

    def report(self, device: str, release: str, state: str, **more: str) -> None:
        body = {"device": device, "release": release, "state": state, **more}
        assert self.post("/api/v1/report", json.dumps(body).encode()).status == 200

    def connect(self) -> socket.socket:
        host, port = self.server.device_url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def ask(self, request: str | bytes) -> Answer:
        """Sends the request as it is, and reads until the connection ends."""
        with self.connect() as connection:
            connection.sendall(request.encode() if isinstance(request, str) else request)
            raw = b""
            while part := connection.recv(1 << 20):
                raw += part
            return Answer(raw)

    def get(self, path: str, *headers: str, method: str = "GET") -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Host: updates.test", "Connection: close", *headers]
        return self.ask("\r\n".join(lines) + "\r\n\r\n")

    def post(self, path: str, body: bytes, *headers: str) -> Answer:
        head = [
            f"POST {path} HTTP/1.1",
            "Host: updates.test",
            "Connection: close",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        return self.ask("\r\n".join(head).encode() + b"\r\n\r\n" + body)


@dataclass
class Answer:
    """A response as it came."""

    raw: bytes

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode().strip().split("\r\n")[1:]
        return {name: value for name, _, value in (line.partition(": ") for line in lines)}


@contextlib.contextmanager
def serving(
    options: Settings, *, loop: str = "uvloop", source: MemorySource | None = None
) -> Iterator[Served]:
    """A server on `loop` (uvloop or asyncio) whose source was read and is empty."""
    source = source or MemorySource()
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    ready: Future[tuple[UpdateServer, Any, asyncio.Event]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        try:
            async with UpdateServer(options, artifact_source=source) as server:
                server.policies.connected()
                ready.set_result((server, asyncio.get_running_loop(), stop))
                await stop.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    def thread() -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(run())

    worker = threading.Thread(target=thread, daemon=True)
    worker.start()
    server, running, stop = ready.result(30)
    try:
        yield Served(server, source, running)
    finally:
        running.call_soon_threadsafe(stop.set)
        worker.join(30)
        assert not worker.is_alive()


def version_body(version: str, content: bytes) -> bytes:
    return f"{version}\n{zlib.crc32(content)}\n{len(content)}".encode()
