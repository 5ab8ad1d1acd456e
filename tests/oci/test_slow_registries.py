"""A registry that is never silent and never done: a byte now and then holds nobody for ever."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from otaflux_oci import (
    Descriptor,
    NotFound,
    OciError,
    RegistryClient,
    RegistryUnreachable,
    Repository,
)
from otaflux_operator.registries import RegistrySources
from tests.fixtures.oci_sources import LOOPBACK, NAME, QUICK, read
from tests.operator.fakes import QUICK as OPERATOR_TIMING
from tests.operator.fakes import Cluster, eventually, rollout_key, running
from tests.operator.worlds import manifest

LAYER = Descriptor("application/octet-stream", "sha256:" + "0" * 64, 5)
LIMITS = replace(QUICK, read_seconds=1.0, request_seconds=1.0, blob_seconds=1.0, blob_attempts=1)


@contextlib.asynccontextmanager
async def dripping(start: bytes, drop: bytes) -> AsyncIterator[Repository]:
    """Answers with `start`, and then with one `drop` after the other."""
    streams: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(start)
            while not writer.is_closing():
                writer.write(drop)
                await writer.drain()
                await asyncio.sleep(0.05)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield Repository(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", NAME)
    finally:
        server.close()
        for stream in streams:
            stream.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("start", "drop", "error"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", RegistryUnreachable),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n", RegistryUnreachable),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 60000\r\n\r\n", b"x", NotFound),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-a: b\r\n", b"a: b\r\n", RegistryUnreachable),
    ],
    ids=["headers", "preliminary answers", "an error", "headers of content"],
)
async def test_a_blob_that_never_begins(start: bytes, drop: bytes, error: type[OciError]) -> None:
    async with (
        dripping(start, drop) as repository,
        RegistryClient(settings=LOOPBACK, insecure=True, limits=LIMITS) as client,
        asyncio.timeout(30),
    ):
        with pytest.raises(error):
            await read(client, repository, LAYER)


async def test_a_lookup_that_never_ends() -> None:
    cluster, key = Cluster(), rollout_key()
    cluster.sources = RegistrySources(LOOPBACK, QUICK)
    async with dripping(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n") as repository:
        artifact = {"repository": str(repository), "tag": "1.0.0", "insecure": True}
        cluster.put(key, manifest(artifact=artifact))
        async with running(cluster, replace(OPERATOR_TIMING, lookup_most=0.1)):
            await eventually(
                lambda: (
                    "not looked up within"
                    in cluster.condition(key, "ArtifactResolved").get("message", "")
                )
            )
            assert cluster.condition(key, "ArtifactResolved")["reason"] == "RegistryUnreachable"
