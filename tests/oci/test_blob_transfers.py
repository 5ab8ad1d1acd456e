"""Compatibility case 8: blobs that come in pieces, or not as they should."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    Descriptor,
    DigestMismatch,
    Limits,
    NotFound,
    OciError,
    RateLimited,
    RegistryClient,
    RegistryError,
    RegistryUnreachable,
    Repository,
    resolve,
)
from tests.fixtures.loopback_servers import Reply, Request, always
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, sha256
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, QUICK, push, read

SIZE = len(FIRMWARE)
LAYER = Descriptor("application/octet-stream", sha256(FIRMWARE), SIZE)

Rule = Callable[[Request], Reply | None]


def broken_off(registry: MisbehavingRegistry, cuts: Iterable[int], *, announced: bool) -> Rule:
    """Each answer ends after so many bytes of it; then everything is as usual."""
    rest = list(cuts)

    def rule(request: Request) -> Reply | None:
        if not rest:
            return None
        usual = registry.blob(LAYER.digest, request)
        return Reply(
            usual.status, usual.headers, usual.body, "true" if announced else None, cut=rest.pop(0)
        )

    return rule


def ranges(registry: MisbehavingRegistry) -> list[str | None]:
    return [request.headers.get("range") for request in registry.received]


@pytest.mark.parametrize("announced", [True, False])
async def test_case_8_a_broken_transfer_is_resumed_by_range(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, announced: bool
) -> None:
    cuts = [100_000, 50_000, 1]
    misbehaving.rules.append(broken_off(misbehaving, cuts, announced=announced))
    assert await read(client, kitchen, LAYER) == FIRMWARE
    assert ranges(misbehaving) == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]


async def test_case_8_a_cut_before_the_first_byte(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    misbehaving.rules.append(broken_off(misbehaving, [0, 0], announced=True))
    assert await read(client, kitchen, LAYER) == FIRMWARE
    assert ranges(misbehaving) == [None, None, None]


async def test_case_8_resumption_is_bounded(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    misbehaving.rules.append(broken_off(misbehaving, [10] * 100, announced=True))
    with pytest.raises(RegistryUnreachable, match="broke off"):
        await read(client, kitchen, LAYER)
    assert len(misbehaving.received) == QUICK.blob_attempts


async def test_case_8_servers_that_ignore_range(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    cuts = [100_000, 40, 200_000]

    def whole(request: Request) -> Reply | None:
        return Reply(body=FIRMWARE, cut=cuts.pop(0) if cuts else None)

    misbehaving.rules.append(whole)
    assert await read(client, kitchen, LAYER) == FIRMWARE
    assert ranges(misbehaving) == [None, "bytes=100000-", "bytes=100000-", "bytes=200000-"]
    assert await read(client, kitchen, LAYER, offset=250_000) == FIRMWARE[250_000:]


async def test_case_8_a_resumption_with_other_bytes_is_rejected(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    def swapped(request: Request) -> Reply | None:
        if "range" not in request.headers:
            return Reply(body=FIRMWARE, cut=1000)
        content_range = f"bytes 1000-{SIZE - 1}/{SIZE}"
        return Reply(206, {"Content-Range": content_range}, b"x" * (SIZE - 1000))

    misbehaving.rules.append(swapped)
    with pytest.raises(DigestMismatch):
        await read(client, kitchen, LAYER)


@pytest.mark.parametrize(
    ("content_range", "kind"),
    [
        (f"bytes 0-{SIZE - 1}/{SIZE}", RegistryError),
        (f"bytes 999-{SIZE - 1}/{SIZE}", RegistryError),
        (f"bytes 1001-{SIZE - 1}/{SIZE}", RegistryError),
        ("", RegistryError),
        ("bytes */5", RegistryError),
        ("bytes 1000-" + "9" * 5000 + "/*", RegistryError),
        (f"bytes 1000-{SIZE}/{SIZE + 1}", DigestMismatch),
    ],
)
async def test_case_8_another_part_than_was_asked_for(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    content_range: str,
    kind: type[OciError],
) -> None:
    def other(request: Request) -> Reply | None:
        if "range" not in request.headers:
            return Reply(body=FIRMWARE, cut=1000)
        return Reply(206, {"Content-Range": content_range}, FIRMWARE[1000:])

    misbehaving.rules.append(other)
    with pytest.raises(kind) as caught:
        await read(client, kitchen, LAYER)
    assert type(caught.value) is kind
    assert len(misbehaving.received) == 2


async def test_case_8_a_part_of_a_blob_that_was_asked_for_whole(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    content_range = {"Content-Range": f"bytes 0-9/{SIZE}"}
    misbehaving.rules.append(always(Reply(206, content_range, FIRMWARE[:10])))
    with pytest.raises(RegistryError, match="another part"):
        await read(client, kitchen, LAYER)


@pytest.mark.parametrize("announced", ["true", 7, 0, SIZE])
async def test_case_8_range_not_satisfiable_then_the_whole(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    announced: int | str,
) -> None:
    """distribution 2.8.2 sends a 416 with a wrong Content-Length."""

    def refusing(request: Request) -> Reply | None:
        if "range" in request.headers:
            return Reply(416, body=b"{}", announced=announced, cut=2)
        return Reply(body=FIRMWARE, cut=1000 if len(misbehaving.received) == 1 else None)

    misbehaving.rules.append(refusing)
    assert await read(client, kitchen, LAYER) == FIRMWARE
    assert ranges(misbehaving) == [None, "bytes=1000-", None]


async def test_case_8_real_registries_are_never_asked_for_an_unsatisfiable_range(
    registry: Registry, oras: Oras, repository: str, tmp_path: Path, client: RegistryClient
) -> None:
    await push(oras, tmp_path, f"{registry.host}/{repository}:1.4.0", "--plain-http")
    source = Repository(registry.host, repository)
    layer = (await resolve(client, source, tag="1.4.0")).layer
    assert await read(client, source, layer, offset=SIZE) == b""
    assert await read(client, source, layer, offset=SIZE - 1) == FIRMWARE[-1:]
    # A descriptor that claims more than there is: the registry answers 416.
    longer = Descriptor(layer.media_type, layer.digest, SIZE + 5)
    with pytest.raises(OciError) as caught:
        await read(client, source, longer, offset=SIZE)
    assert type(caught.value) is DigestMismatch
    with pytest.raises(DigestMismatch, match="announces"):
        await read(client, source, longer)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
@pytest.mark.parametrize("announced", ["true", None])
async def test_case_8_sizes_that_are_not_as_described(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    size: int,
    announced: str | None,
) -> None:
    descriptor = Descriptor("x/y", LAYER.digest, size)
    misbehaving.rules.append(
        lambda request: Reply(body=FIRMWARE, announced=announced) if "range" not in request.headers
        else Reply(416)
    )  # fmt: skip
    with pytest.raises((DigestMismatch, RegistryUnreachable)) as caught:
        await read(client, kitchen, descriptor)
    if announced or size < SIZE:
        assert type(caught.value) is DigestMismatch


async def test_case_8_not_a_byte_too_many_is_passed_on(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    misbehaving.rules.append(always(Reply(body=FIRMWARE + b"x" * 5_000_000, announced=None)))
    received: list[int] = []

    async def count() -> None:
        async for part in client.blob(kitchen, LAYER):
            received.append(len(part))

    with pytest.raises(DigestMismatch, match="more bytes"):
        await count()
    assert sum(received) <= SIZE


async def test_case_8_server_errors_are_tried_again_refusals_are_not(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    misbehaving.rules.append(lambda _: Reply(502) if len(misbehaving.received) < 3 else None)
    assert await read(client, kitchen, LAYER) == FIRMWARE
    misbehaving.received.clear()
    misbehaving.rules.append(always(Reply(404)))
    with pytest.raises(NotFound):
        await read(client, kitchen, LAYER)
    misbehaving.rules.append(always(Reply(429, {"Retry-After": "600"})))
    with pytest.raises(RateLimited):
        await read(client, kitchen, LAYER)
    assert len(misbehaving.received) == 2


async def test_case_8_an_empty_blob(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    misbehaving.blobs[sha256(b"")] = b""
    assert await read(client, kitchen, Descriptor("x/y", sha256(b""), 0)) == b""
    assert len(misbehaving.received) == 1


async def test_case_8_time_is_bounded(
    misbehaving: MisbehavingRegistry, kitchen: Repository
) -> None:
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, limits=Limits(blob_seconds=-1.0)
    ) as client:
        with pytest.raises(RegistryError, match="longer than") as caught:
            await read(client, kitchen, LAYER)
    assert caught.value.retryable
    assert len(misbehaving.received) == 1


async def test_leaving_early_frees_the_connection(
    misbehaving: MisbehavingRegistry, kitchen: Repository
) -> None:
    limits = Limits(requests_per_host=1)
    async with RegistryClient(settings=LOOPBACK, insecure=True, limits=limits) as client:
        async with client.blob(kitchen, LAYER) as parts:
            async for _ in parts:
                break
        assert await read(client, kitchen, LAYER) == FIRMWARE


@pytest.mark.parametrize("offset", [-1, SIZE + 1])
async def test_offsets_outside_the_blob(
    kitchen: Repository, client: RegistryClient, offset: int
) -> None:
    with pytest.raises(ValueError, match="outside a blob"):
        client.blob(kitchen, LAYER, offset=offset)


@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    cuts=st.lists(st.integers(0, SIZE), max_size=4),
    ignoring=st.lists(st.booleans(), min_size=5, max_size=5),
)
async def test_case_8_whatever_breaks_the_bytes_are_right(
    misbehaving: MisbehavingRegistry, client: RegistryClient, cuts: list[int], ignoring: list[bool]
) -> None:
    """Cuts anywhere, Range obeyed or not: the very bytes."""
    pending = list(zip(cuts, ignoring, strict=False))

    def rule(request: Request) -> Reply | None:
        if not pending:
            return None
        cut, whole = pending.pop(0)
        usual = Reply(body=FIRMWARE) if whole else misbehaving.blob(LAYER.digest, request)
        return Reply(usual.status, usual.headers, usual.body, cut=cut)

    misbehaving.rules[:] = [rule]
    assert await read(client, Repository(misbehaving.host, NAME), LAYER) == FIRMWARE
