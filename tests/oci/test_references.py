"""Repositories, tags and digests as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_oci import InvalidReference, Repository
from otaflux_oci.references import is_digest, is_tag

labels = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
ports = st.one_of(st.just(""), st.integers(1, 65535).map(lambda port: f":{port}"))
hosts = st.one_of(
    st.lists(labels, min_size=2, max_size=4).map(".".join),
    st.just("localhost"),
    st.just("[2001:db8::1]"),
)
registries = st.builds(lambda host, port: host + port, hosts, ports)
segments = st.from_regex(r"[a-z0-9]{1,6}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True)
names = st.lists(segments, min_size=1, max_size=4).map("/".join)


@given(registries, names)
def test_what_is_written_is_read_again(registry: str, name: str) -> None:
    repository = Repository(registry, name)
    assert Repository.parse(str(repository)) == repository
    assert (repository.registry, repository.name) == (registry, name)


@given(st.text(max_size=80))
def test_any_text_is_a_normal_repository_or_an_error(text: str) -> None:
    try:
        repository = Repository.parse(text)
    except InvalidReference:
        return
    assert Repository.parse(str(repository)) == repository
    assert ".." not in str(repository)
    assert str(repository).isascii()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("registry.example.com/firmware/thermostat", "registry.example.com/firmware/thermostat"),
        ("registry.example.com:5000/fw", "registry.example.com:5000/fw"),
        ("localhost/fw", "localhost/fw"),
        ("LocalHost:5000/fw", "localhost:5000/fw"),
        ("Registry.Example.COM/fw", "registry.example.com/fw"),
        ("[::1]:5000/fw", "[::1]:5000/fw"),
        ("alpine", "docker.io/library/alpine"),
        ("espressif/demo", "docker.io/espressif/demo"),
        ("docker.io/alpine", "docker.io/library/alpine"),
        ("index.docker.io/espressif/demo", "docker.io/espressif/demo"),
        ("registry-1.docker.io/library/alpine", "docker.io/library/alpine"),
    ],
)
def test_normal_forms(text: str, expected: str) -> None:
    assert str(Repository.parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lower case letters"),
        ("registry.example.com/", "lower case letters"),
        ("registry.example.com/Firmware", "lower case letters"),
        ("registry.example.com/a/../b", "lower case letters"),
        ("registry.example.com/a//b", "lower case letters"),
        ("registry.example.com/a b", "lower case letters"),
        ("registry.example.com/fw\n", "lower case letters"),
        ("registry.example.com:0/fw", "between 1 and 65535"),
        ("registry.example.com:70000/fw", "between 1 and 65535"),
        ("registry_example.com/fw", "host name"),
        ("https://registry.example.com/fw", "no scheme"),
        ("registry.example.com/fw:1.4.0", "`tag`"),
        ("registry.example.com/fw@sha256:" + "0" * 64, "`digest`"),
        ("registry.example.com/" + "a" * 300, "longer than 255"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidReference, match=message):
        Repository.parse(text)


def test_a_password_in_a_reference_is_not_repeated() -> None:
    for text in ("https://robot:hunter2@registry.example.com/fw", "robot:hunter2@r.example.com/fw"):
        with pytest.raises(InvalidReference) as caught:
            Repository.parse(text)
        assert "hunter2" not in str(caught.value)


def test_no_object_without_a_valid_name() -> None:
    with pytest.raises(InvalidReference):
        Repository("registry.example.com", "../../etc")
    with pytest.raises(InvalidReference):
        Repository("registry", "fw")  # would be read again as Docker Hub's registry/fw


def test_tags_and_digests() -> None:
    assert all(map(is_tag, ("1.4.0", "_x", "a" * 128)))
    assert not any(map(is_tag, ("", ".a", "-a", "a/b", "a b", "a" * 129, "a\n")))
    assert is_digest("sha256:" + "0a" * 32)
    assert not any(map(is_digest, ("sha256:" + "0A" * 32, "sha512:" + "0" * 128, "sha256:0")))
