"""Tokens: whose they are, until when, and in which forms they are shown."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from otaflux_policy.groups import Group, Groups
from otaflux_policy.tokens import DeviceToken, new_token
from otaflux_server.identities import Identity, Unidentified
from otaflux_server.identities.token_files import TokenFiles
from otaflux_server.identities.tokens import Tokens
from otaflux_server.metrics import Metrics
from otaflux_server.refusals import Refusal
from tests.server.identities.ways import device_token, write

NO_GROUPS = Groups()
TOKEN = new_token()


def identifier(path: Path, *tokens: DeviceToken, **fields: Any) -> Tokens:
    write(path / "tokens", *tokens)
    groups = fields.pop("groups", lambda _: NO_GROUPS)
    found = Tokens(TokenFiles(path / "tokens"), groups, fields.pop("metrics", Metrics()), **fields)
    asyncio.run(found.start())
    return found


def scope(*values: str) -> dict[str, Any]:
    return {"headers": [(b"authorization", value.encode("latin-1")) for value in values]}


def identity(known: Tokens, token: str = TOKEN) -> Identity:
    return known.identify(scope(f"Bearer {token}"))


def refusal(known: Tokens, *values: str) -> Refusal:
    with pytest.raises(Unidentified) as raised:
        known.identify(scope(*values))
    return raised.value.reason


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "TargetToken", "GatewayToken", "BEARER"])
def test_a_devices_own_token_is_that_device(tmp_path: Path, scheme: str) -> None:
    known = identifier(tmp_path, device_token(TOKEN, namespace="office", devices=["a"]))
    found = known.identify(scope(f"{scheme} {TOKEN}"))
    assert (found.namespace, found.sole) == ("office", "a")
    assert found.permits("a")
    assert not found.permits("b")


def test_ids_and_globs(tmp_path: Path) -> None:
    found = identity(identifier(tmp_path, device_token(TOKEN, devices=["a", "lab-*", "x?"])))
    assert found.sole is None
    assert all(map(found.permits, ("a", "lab-", "lab-1", "x1")))
    assert not any(map(found.permits, ("b", "lab", "LAB-1", "x", "x12", "a-lab-1")))


@pytest.mark.parametrize("devices", [["lab-*"], ["?"]])
def test_one_glob_is_not_a_sole_device(tmp_path: Path, devices: list[str]) -> None:
    assert identity(identifier(tmp_path, device_token(TOKEN, devices=devices))).sole is None


def test_a_gateway_is_every_device_of_its_namespace(tmp_path: Path) -> None:
    found = identity(identifier(tmp_path, device_token(TOKEN, devices=["*"])))
    assert (found.namespace, found.sole) == ("home", None)
    assert found.permits("a")


def test_a_group_is_looked_up_at_the_moment_of_asking(tmp_path: Path) -> None:
    theirs = Group(namespace="office", name="g", names=("a",))
    groups = {"home": NO_GROUPS, "office": Groups([theirs])}
    known = identifier(
        tmp_path, device_token(TOKEN, group="g"), groups=lambda namespace: groups[namespace]
    )
    found = identity(known)
    assert found.sole is None
    assert not found.permits("a")
    members = Group(namespace="home", name="g", names=("a", "lab-*"))
    others = Group(namespace="home", name="h", names=("b",))
    groups["home"] = Groups([members, others])
    assert all(map(found.permits, ("a", "lab-1")))
    assert not found.permits("b")
    groups["home"] = Groups([others])
    assert not found.permits("a")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((), Refusal.NO_TOKEN),
        ((f"Bearer {TOKEN}", f"Bearer {TOKEN}"), Refusal.DUPLICATE_HEADER),
        ((f"Bearer {new_token()}",), Refusal.TOKEN_UNKNOWN),
        ((f"Basic {TOKEN}",), Refusal.MALFORMED_HEADER),
        ((f"Bearer  {TOKEN}",), Refusal.MALFORMED_HEADER),
        ((f"Bearer {TOKEN}, Bearer {TOKEN}",), Refusal.MALFORMED_HEADER),
        ((f"Bearer {TOKEN[:-1]}",), Refusal.MALFORMED_HEADER),
        ((f"Bearer {TOKEN}\n",), Refusal.MALFORMED_HEADER),
        (("Bearer otd_é",), Refusal.MALFORMED_HEADER),
        ((TOKEN,), Refusal.MALFORMED_HEADER),
        (("Bearer",), Refusal.MALFORMED_HEADER),
        (("",), Refusal.MALFORMED_HEADER),
    ],
)
def test_all_else_is_nobodys(tmp_path: Path, values: tuple[str, ...], reason: Refusal) -> None:
    known = identifier(tmp_path, device_token(TOKEN, devices=["a"]))
    assert refusal(known, *values) is reason


def test_the_hash_is_no_token(tmp_path: Path) -> None:
    entry = device_token(TOKEN, devices=["a"])
    known = identifier(tmp_path, entry)
    assert refusal(known, f"Bearer {entry.sha256}") is Refusal.MALFORMED_HEADER
    assert refusal(known, f"Bearer otd_{entry.sha256[:43]}") is Refusal.TOKEN_UNKNOWN


def test_a_token_ends_when_it_expires(tmp_path: Path) -> None:
    end = datetime.now(UTC) + timedelta(hours=1)
    now = time.time()
    known = identifier(
        tmp_path, device_token(TOKEN, devices=["a"], expires_at=end), clock=lambda: now
    )
    assert identity(known).sole == "a"
    now = end.timestamp()
    assert refusal(known, f"Bearer {TOKEN}") is Refusal.TOKEN_EXPIRED


def test_the_same_token_for_different_devices_is_nobodys(tmp_path: Path) -> None:
    good = new_token()
    metrics = Metrics()
    with capture_logs() as logs:
        known = identifier(
            tmp_path,
            device_token(TOKEN, name="one", devices=["a"]),
            device_token(TOKEN, name="two", devices=["b"]),
            device_token(TOKEN, name="three", devices=["a"]),
            device_token(good, devices=["c"]),
            metrics=metrics,
        )
    assert refusal(known, f"Bearer {TOKEN}") is Refusal.TOKEN_UNKNOWN
    assert identity(known, good).sole == "c"
    (entry,) = (entry for entry in logs if "different devices" in entry["event"])
    assert entry["names"] == ["two"]
    assert TOKEN not in str(logs)
    read = metrics.registry.get_sample_value
    assert read("otaflux_device_tokens", {"state": "Known"}) == 1
    assert read("otaflux_device_tokens", {"state": "Refused"}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"namespace": "office", "devices": ["a"]},
        {"group": "a"},
        {"devices": ["a", "b"]},
        {"devices": ["a"], "expires_at": datetime(2100, 1, 1, tzinfo=UTC)},
    ],
)
def test_whatever_is_different_about_them(tmp_path: Path, other: dict[str, Any]) -> None:
    first = device_token(TOKEN, devices=["a"])
    known = identifier(tmp_path, first, device_token(TOKEN, **other))
    assert refusal(known, f"Bearer {TOKEN}") is Refusal.TOKEN_UNKNOWN


def test_the_same_line_twice_is_the_same_token(tmp_path: Path) -> None:
    entries = (
        device_token(TOKEN, name="one", devices=["a", "b"]),
        device_token(TOKEN, name="two", devices=["b", "a"]),
    )
    assert identity(identifier(tmp_path, *entries)).permits("b")
