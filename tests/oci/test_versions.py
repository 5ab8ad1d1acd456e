"""Which tag a range means, and which version a release has."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semantic_version import Version  # type: ignore[import-untyped]  # ships no types

from otaflux_oci import (
    InvalidReference,
    NoMatchingVersion,
    RegistryClient,
    Repository,
    UnsupportedManifest,
    VersionMismatch,
    resolve,
)
from otaflux_oci.resolving import newest_tag, release_version
from tests.fixtures.misbehaving_registries import MisbehavingRegistry
from tests.fixtures.oci_sources import FIRMWARE, NAME

DIGEST = "sha256:0123456789ab" + "c" * 52
SOMEWHERE = Repository("registry.example.com", "fw")
SIGNATURE = "sha256-" + "0" * 64


@pytest.mark.parametrize(
    ("tag", "annotation", "version", "expected"),
    [
        ("1.4.0", "1.4.0", "9.9.9", "9.9.9"),  # spec.version first
        ("latest", "1.4.0", "", "1.4.0"),  # then the annotation
        ("latest", "2024.1-beta", "", "2024.1-beta"),
        ("1.4", "1.4.7", "", "1.4.7"),  # 1.4 is a moving tag, not a version
        ("1.4.0", "v1.4.0", "", "v1.4.0"),
        ("v1.4.0", "1.4.0", "", "1.4.0"),
        ("1.4.0", "1.4.0+build.5", "", "1.4.0+build.5"),
        ("1.4.0", None, "", "1.4.0"),  # then the tag
        ("v1.4.0-rc.1", None, "", "1.4.0-rc.1"),
        ("vv1.4.0", None, "", "vv1.4.0-0123456789ab"),
        ("latest", None, "", "latest-0123456789ab"),  # then tag and digest
        ("1.4", None, "", "1.4-0123456789ab"),
        (None, "1.4.0", "", "1.4.0"),  # by digest
        (None, None, "", "0123456789ab"),
        (None, None, "1.4.0", "1.4.0"),
    ],
)
def test_the_order_of_versions(
    tag: str | None, annotation: str | None, version: str, expected: str
) -> None:
    assert release_version(tag, DIGEST, annotation, version) == expected


@pytest.mark.parametrize(
    ("tag", "annotation"),
    [
        ("1.4.0", "1.3.0"),
        ("v1.4.0", "1.4.1"),
        ("1.4.0", "1.4.0-rc.1"),
        ("1.4.0-rc.1", "1.4.0"),
        ("1.4.0", "1.4"),
        ("1.4.0", "nightly"),
    ],
)
@pytest.mark.parametrize("version", ["", "1.4.0"])
def test_a_tag_that_contradicts_the_annotation(tag: str, annotation: str, version: str) -> None:
    with pytest.raises(VersionMismatch, match=f"{tag} holds .* {annotation} "):
        release_version(tag, DIGEST, annotation, version)


@pytest.mark.parametrize("text", ["", " ", "1.4.0\n404", "1 4", "-1", "a" * 129, "1.4.0\x00", "ü"])
def test_versions_that_would_break_a_line_protocol(text: str) -> None:
    with pytest.raises(UnsupportedManifest, match="is not a version"):
        release_version("latest", DIGEST, text, "")
    if text:
        with pytest.raises(InvalidReference, match=r"spec\.version is not a version"):
            release_version("latest", DIGEST, None, text)


@pytest.mark.parametrize(
    ("semver", "expected"),
    [
        ("*", "2.0.0"),
        ("^1.4.0", "v1.10.0"),
        ("~1.4", "1.4.9"),
        ("1.4.x", "1.4.9"),
        (">=1.4.0 <1.4.9", "1.4.0"),
        ("1.4.0 - 1.4.5", "1.4.0"),
        ("1.4.0 || 1.4.9", "1.4.9"),
        ("1.4.0", "1.4.0"),
        ("^2.0.0-0", "2.0.0"),
        (">=2.1.0-rc.0", "2.1.0-rc.10"),
    ],
)
def test_ranges(semver: str, expected: str) -> None:
    tags = [
        "1.4.0", "1.4.9", "v1.10.0", "2.0.0", "2.1.0-rc.2", "2.1.0-rc.10", "latest", "1.4", "3",
        "9.9.9.9", "01.2.3", SIGNATURE, SIGNATURE + ".sig", SIGNATURE + ".att",
    ]  # fmt: skip
    for order in (tags, tags[::-1]):
        assert newest_tag(order, semver, SOMEWHERE) == expected


def test_of_two_tags_for_one_version_the_plain_one() -> None:
    assert newest_tag(["v1.0.0", "1.0.0"], "*", SOMEWHERE) == "1.0.0"
    assert newest_tag(["1.0.0", "v1.0.0"], "*", SOMEWHERE) == "1.0.0"


@pytest.mark.parametrize("semver", ["x.y", "^1.4.0.0", ">>1", "latest", "1.0.0;", "1" * 300])
def test_ranges_that_are_none(semver: str) -> None:
    with pytest.raises(InvalidReference, match="is not a range"):
        newest_tag(["1.0.0"], semver, SOMEWHERE)


def test_nothing_matches() -> None:
    with pytest.raises(NoMatchingVersion, match=r"Of 2 tags .* newest version there is 1\.0\.0"):
        newest_tag(["1.0.0", "latest"], "^2", SOMEWHERE)
    with pytest.raises(NoMatchingVersion, match="there is none"):
        newest_tag(["latest"], "*", SOMEWHERE)


versions = st.builds(
    "{}.{}.{}{}".format,
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 20),
    st.sampled_from(["", "", "-rc.1", "-rc.2", "-alpha"]),
)


@given(st.lists(versions, min_size=1, max_size=12), st.randoms())
def test_the_newest_does_not_depend_on_the_order(tags: list[str], random: Random) -> None:
    shuffled = tags[:]
    random.shuffle(shuffled)
    released = [tag for tag in tags if "-" not in tag]
    if not released:
        with pytest.raises(NoMatchingVersion):
            newest_tag(shuffled, "*", SOMEWHERE)
        return
    found = newest_tag(shuffled, "*", SOMEWHERE)
    assert found == newest_tag(tags, "*", SOMEWHERE)
    assert all(Version(tag) <= Version(found) for tag in released)


async def test_exactly_one_of_tag_range_and_digest(client: RegistryClient) -> None:
    with pytest.raises(InvalidReference, match="exactly one"):
        await resolve(client, SOMEWHERE)
    with pytest.raises(InvalidReference, match="exactly one"):
        await resolve(client, SOMEWHERE, tag="1.0.0", digest=DIGEST)
    with pytest.raises(InvalidReference, match="is not a tag"):
        await resolve(client, SOMEWHERE, tag="a/b")
    with pytest.raises(InvalidReference, match="is not a digest"):
        await resolve(client, SOMEWHERE, digest="sha256:1")


async def test_an_old_image_under_a_new_tag(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    annotations = {"org.opencontainers.image.version": "1.3.0", "product": "kitchen"}
    misbehaving.push(NAME, "1.3.0", FIRMWARE, annotations=annotations)
    misbehaving.push(NAME, "1.5.0", FIRMWARE, annotations=annotations)
    old = await resolve(client, kitchen, tag="1.3.0")
    assert (old.version, old.annotations) == ("1.3.0", annotations)
    with pytest.raises(VersionMismatch, match=r"The tag 1\.5\.0 holds a manifest .* 1\.3\.0"):
        await resolve(client, kitchen, tag="1.5.0")
    with pytest.raises(VersionMismatch):
        await resolve(client, kitchen, semver="*")
    assert (await resolve(client, kitchen, digest=old.digest)).version == "1.3.0"
