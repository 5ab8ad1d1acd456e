"""Pull secrets: which entry fits, and what is refused."""

import base64
import json
from typing import Any

import pytest

from otaflux_oci import (
    Basic,
    Credentials,
    IdentityToken,
    InvalidCredentials,
    RegistryClient,
    Repository,
    Tls,
)


def secret(**auths: Any) -> str:
    return json.dumps({"auths": auths})


def user(name: str) -> dict[str, str]:
    return {"username": name, "password": "hunter2"}


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("registry.example.com/fw", "host"),
        ("registry.example.com/team/other", "team"),
        ("registry.example.com/team/fw/thermostat", "deeper"),
        ("registry.example.com/team2/fw", "host"),  # whole path segments only
        ("registry.example.com:5000/fw", "port"),
        ("registry.example.com:5001/fw", None),
        ("eu.pkg.example.com/fw", "glob"),
        ("asia.pkg.example.com/fw", "asia"),
        ("a.b.pkg.example.com/fw", None),  # a star is one label
        ("espressif/demo", "hub"),
        ("alpine", "hub"),
        ("other.example.com/fw", None),
    ],
)
def test_the_longest_match_wins(repository: str, expected: str | None) -> None:
    credentials = Credentials.from_dockerconfigjson(
        secret(
            **{
                "registry.example.com": user("host"),
                "https://registry.example.com/v2/": user("host"),
                "registry.example.com/team": user("team"),
                "registry.example.com/team/fw": user("deeper"),
                "http://registry.example.com:5000": user("port"),
                "*.pkg.example.com": user("glob"),
                "asia.pkg.example.com": user("asia"),
                "https://index.docker.io/v1/": user("hub"),
            }
        )
    )
    found = credentials.for_repository(Repository.parse(repository))
    assert found == (Basic(expected, "hunter2") if expected else None)


def test_the_deeper_entry_needs_its_whole_path() -> None:
    credentials = Credentials.from_dockerconfigjson(
        secret(**{"r.example.com/team/fw": user("deeper")})
    )
    assert credentials.for_repository(Repository.parse("r.example.com/team/firmware")) is None
    assert credentials.for_repository(Repository.parse("r.example.com/team")) is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": base64.b64encode(b"robot$fw+pull:a:b").decode()}, Basic("robot$fw+pull", "a:b")),
        ({"auth": "\n" + base64.b64encode(b"u:p\0").decode() + "\n"}, Basic("u", "p")),
        ({"username": "_json_key", "password": "{}"}, Basic("_json_key", "{}")),
        ({"auth": "eDp5", "identitytoken": "refresh"}, IdentityToken("refresh")),
        ({"auth": ""}, None),
        ({}, None),
    ],
)
def test_forms_of_an_entry(entry: dict[str, str], expected: Basic | IdentityToken | None) -> None:
    credentials = Credentials.from_dockerconfigjson(secret(**{"r.example.com": entry}).encode())
    assert credentials.for_repository(Repository.parse("r.example.com/fw")) == expected


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("hunter2{", "not JSON"),
        (b"\xff\xfehunter2", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["hunter2"]', "not JSON"),
        ('{"password": "hunter2"}', "`auths`"),
        ('{"auths": {}, "credHelpers": {"r.example.com": "hunter2"}}', "`credHelpers`"),
        ('{"auths": {}, "credsStore": "hunter2"}', "`credsStore`"),
        (secret(**{"r.example.com": "hunter2"}), "no object"),
        (secret(**{"r.example.com": {"auth": "hunter2"}}), "base64"),
        (secret(**{"r.example.com": {"auth": base64.b64encode(b"hunter2").decode()}}), "base64"),
        (secret(**{"r.example.com": {"auth": base64.b64encode(b"\xff:").decode()}}), "base64"),
        (secret(**{"r.example.com": {"password": ["hunter2"]}}), "`password`"),
        (secret(**{"r.example.com": {"username": "a:b", "password": "hunter2"}}), "colon"),
        (secret(**{"r.example.com": {"registrytoken": "hunter2"}}), "`registrytoken`"),
        (secret(**{"hunter2@r.example.com": user("x")}), "without a host"),
        (" " * (1024 * 1024 + 1), "1 MiB"),
    ],
)
def test_refused_without_repeating_it(document: bytes | str, message: str) -> None:
    with pytest.raises(InvalidCredentials, match=message) as caught:
        Credentials.from_dockerconfigjson(document)
    # A JSON error would carry the document along.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "hunter2" not in str(caught.value)


def test_reprs_hide_secrets() -> None:
    credentials = Credentials.from_dockerconfigjson(
        secret(
            **{"r.example.com/team": user("robot"), "b.example.com": {"identitytoken": "hunter2"}}
        )
    )
    shown = repr(
        [
            credentials,
            credentials.for_repository(Repository.parse("r.example.com/team/fw")),
            credentials.for_repository(Repository.parse("b.example.com/fw")),
            Tls(ca=b"hunter2", cert=b"hunter2", key=b"hunter2"),
        ]
    )
    assert "hunter2" not in shown
    assert "r.example.com/team" in shown
    assert "robot" in shown


def test_tls_secrets_that_cannot_be_used() -> None:
    with pytest.raises(InvalidCredentials, match=r"both tls.crt and tls.key"):
        Tls(cert=b"x")
    for ca in (b"hunter2", b"\xff", b""):
        with pytest.raises(InvalidCredentials, match=r"`ca.crt`"):
            RegistryClient(tls=Tls(ca=ca))
    with pytest.raises(InvalidCredentials, match=r"`tls.crt` and `tls.key`"):
        RegistryClient(tls=Tls(cert=b"x", key=b"y"))
