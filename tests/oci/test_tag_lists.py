"""Compatibility case 3: pages of tags."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    Limits,
    NoMatchingVersion,
    RegistryClient,
    RegistryError,
    Repository,
    TooLarge,
    resolve,
)
from tests.fixtures.loopback_servers import Reply, Request, always
from tests.fixtures.misbehaving_registries import MisbehavingRegistry
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, push

TAGS = f"/v2/{NAME}/tags/list"


def pages(
    content: Mapping[str, tuple[list[str] | None, str | None]],
) -> Callable[[Request], Reply | None]:
    """By query: the tags of a page and its Link header."""

    def rule(request: Request) -> Reply | None:
        if request.path != TAGS:
            return None
        tags, link = content[request.target.partition("?")[2]]
        headers = {"Link": link} if link else {}
        return Reply(headers=headers, body=json.dumps({"name": NAME, "tags": tags}).encode())

    return rule


FIRST = "n=1000"


@pytest.mark.parametrize(
    "second",
    [
        f"{TAGS}?last=b&n=2",  # relative to the host
        "list?last=b&n=2",  # relative to the page
        "?last=b&n=2",
        "http://HOST" + TAGS + "?last=b&n=2",
    ],
)
async def test_case_3_links_relative_and_absolute(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    second: str,
) -> None:
    link = f'<{second.replace("HOST", misbehaving.host)}>; rel="next"'
    misbehaving.rules.append(
        pages({FIRST: (["b", "a"], link), "last=b&n=2": (["c"], None)}),
    )
    assert await client.tags(kitchen) == ["b", "a", "c"]


async def test_case_3_none_and_unsorted(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    misbehaving.rules.append(pages({FIRST: (["2.0.0", "10.0.0", "9.0.0", "2.0.0"], None)}))
    assert await client.tags(kitchen) == ["2.0.0", "10.0.0", "9.0.0"]
    for name in ("2.0.0", "10.0.0", "9.0.0"):
        misbehaving.push(NAME, name, FIRMWARE)
    assert (await resolve(client, kitchen, semver="*")).version == "10.0.0"


async def test_case_3_opaque_queries_are_sent_back_as_they_came(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    opaque = "next_page=gAAA%2Bx%3D%3D&last=%00x&n=2;q,~"
    link = f'<{TAGS}?n=5>; rel="first", <{TAGS}?{opaque}>; rel="next"'
    misbehaving.rules.append(pages({FIRST: (["a"], link), opaque: (["b"], None)}))
    assert await client.tags(kitchen) == ["a", "b"]


@pytest.mark.parametrize("relation", ['rel="prev"', 'rel="nextish"', 'title="next"', ""])
async def test_case_3_other_relations_are_not_followed(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, relation: str
) -> None:
    misbehaving.rules.append(pages({FIRST: (["a"], f"<{TAGS}?last=a>; {relation}")}))
    assert await client.tags(kitchen) == ["a"]


@pytest.mark.parametrize(
    "relation",
    [
        'title="x"; rel="next"',
        "rel=next",
        'rel="next last"',
        'rel="last next"',
        'REL="Next"',
        'rel = "next"',
    ],
)
async def test_case_3_forms_of_the_relation(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, relation: str
) -> None:
    link = f"<{TAGS}?last=a>; {relation}"
    misbehaving.rules.append(pages({FIRST: (["a"], link), "last=a": (["b"], None)}))
    assert await client.tags(kitchen) == ["a", "b"]


async def test_case_3_cycles_end(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    link = f'<{TAGS}?last=b>; rel="next"'
    misbehaving.rules.append(pages({FIRST: (["a", "b"], link), "last=b": (["a", "b"], link)}))
    assert await client.tags(kitchen) == ["a", "b"]
    assert len(misbehaving.received) == 2


@pytest.mark.parametrize(
    "elsewhere", ["http://localhost:{port}", "http://127.0.0.1:{other}", "https://127.0.0.1:{port}"]
)
async def test_case_3_links_to_other_origins_are_refused(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, elsewhere: str
) -> None:
    async with MisbehavingRegistry() as other:
        origin = elsewhere.format(port=misbehaving.port, other=other.port)
        link = f'<{origin}{TAGS}?last=a>; rel="next"'
        misbehaving.rules.append(pages({FIRST: (["a"], link)}))
        with pytest.raises(RegistryError, match="continues on another host"):
            await client.tags(kitchen)
        assert not other.received
    assert len(misbehaving.received) == 1


async def test_case_3_a_list_without_end_is_an_error_and_not_a_part_of_it(
    misbehaving: MisbehavingRegistry, kitchen: Repository
) -> None:
    def endless(request: Request) -> Reply:
        number = len(misbehaving.received)
        link = f'<{TAGS}?last={number}>; rel="next"'
        return Reply(headers={"Link": link}, body=json.dumps({"tags": [f"1.0.{number}"]}).encode())

    misbehaving.rules.append(endless)
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, limits=Limits(tag_pages=4)
    ) as client:
        with pytest.raises(TooLarge, match="more than 4 pages"):
            await client.tags(kitchen)
    assert len(misbehaving.received) == 4


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags": 5}', b"{}", b'{"tags": {"a": 1}}'])
async def test_case_3_pages_that_are_none(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, body: bytes
) -> None:
    misbehaving.rules.append(always(Reply(body=body)))
    with pytest.raises(RegistryError, match="not what the specification says"):
        await client.tags(kitchen)


async def test_case_3_what_is_no_tag_is_dropped(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    body = b'{"tags": ["1.0.0", 5, null, "../x", "a b", "ok"]}'
    misbehaving.rules.append(always(Reply(body=body)))
    assert await client.tags(kitchen) == ["1.0.0", "ok"]
    misbehaving.rules.append(always(Reply(body=b'{"tags": null}')))
    assert await client.tags(kitchen) == []


async def test_case_3_a_list_of_very_many_tags_is_an_error(
    misbehaving: MisbehavingRegistry, kitchen: Repository
) -> None:
    misbehaving.rules.append(pages({FIRST: ([f"1.0.{n}" for n in range(11)], None)}))
    limits = Limits(tags=10)
    async with RegistryClient(settings=LOOPBACK, insecure=True, limits=limits) as client:
        with pytest.raises(TooLarge, match="or 10 tags"):
            await client.tags(kitchen)


async def test_case_3_a_page_is_bounded(
    misbehaving: MisbehavingRegistry, kitchen: Repository
) -> None:
    misbehaving.rules.append(pages({FIRST: (["a" * 100] * 100, None)}))
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, limits=Limits(tag_page_bytes=1000)
    ) as client:
        with pytest.raises(TooLarge):
            await client.tags(kitchen)


async def test_case_3_a_range_on_real_registries(
    registry: Registry, oras: Oras, repository: str, tmp_path: Path, client: RegistryClient
) -> None:
    reference = f"{registry.host}/{repository}"
    tags = "v1.9.0,1.10.0,1.10.1-rc.1,2.0.0,latest,sha256-" + "0" * 64 + ".sig"
    await push(oras, tmp_path, f"{reference}:{tags}", "--plain-http")
    source = Repository.parse(reference)
    assert set(await client.tags(source)) == set(tags.split(","))
    found = await resolve(client, source, semver="^1.2")
    assert (found.reference, found.version) == ("1.10.0", "1.10.0")
    assert (await resolve(client, source, semver="1.9.x")).version == "1.9.0"
    assert (await resolve(client, source, semver="^1.10.1-rc.0")).version == "1.10.1-rc.1"
    with pytest.raises(NoMatchingVersion, match=r"the newest version there is 2\.0\.0"):
        await resolve(client, source, semver="^3")


async def test_case_3_pages_of_a_real_registry(
    registry: Registry,
    oras: Oras,
    repository: str,
    tmp_path: Path,
    client: RegistryClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """v3 pages with a relative Link, 2.8.2 ignores n and answers all at once."""
    monkeypatch.setattr("otaflux_oci.registries._TAGS_PER_PAGE", 2)
    tags = [f"1.{number}.0" for number in (3, 1, 10, 2, 0)]
    await push(oras, tmp_path, f"{registry.host}/{repository}:{','.join(tags)}", "--plain-http")
    found = await client.tags(Repository(registry.host, repository))
    assert sorted(found) == sorted(tags)
