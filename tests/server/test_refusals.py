"""Every refusal has a status, a meaning for people, a place in the code, a line and a metric."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from otaflux_cli.control_plane.certificates import write_server_certificate
from otaflux_policy.rejections import MEANINGS as REJECTIONS
from otaflux_policy.rejections import RejectionReason
from otaflux_policy.tokens import new_token
from otaflux_server.access.callers import MEANINGS as ACCESS_REFUSALS
from otaflux_server.access.callers import STATUS, AccessRefusal
from otaflux_server.access.refusals import AccessRefusals
from otaflux_server.connections import MEANINGS as DROPS
from otaflux_server.connections import Connections, Drop
from otaflux_server.metrics import Metrics
from otaflux_server.refusals import MEANINGS as REFUSALS
from otaflux_server.refusals import Refusal, Refusals
from otaflux_server.settings import ConnectionSettings
from otaflux_server.settings.tls import TlsSettings
from otaflux_server.tls.ports import TlsPort
from otaflux_server.tls.reasons import MEANINGS as TLS_REFUSALS
from otaflux_server.tls.reasons import TlsRefusal
from tests.server.fleets import NAMESPACE
from tests.server.identities.asking import Asked, Credentials, ask
from tests.server.identities.ways import DEVICE, VICTIM, WAYS, bearer, serving_way

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/reasons.md").read_text()
WORDS: dict[type[StrEnum], Mapping[Any, str]] = {
    Refusal: REFUSALS,
    Drop: DROPS,
    AccessRefusal: ACCESS_REFUSALS,
    TlsRefusal: TLS_REFUSALS,
    RejectionReason: REJECTIONS,
}
every_kind = pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.__name__)


def used(kind: type[StrEnum]) -> set[str]:
    """Members that code gives as a reason: not where they are defined, explained or listed."""
    found = set()
    for package in ("policy", "server"):
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text())
            listed = {
                id(node)
                for statement in tree.body
                if isinstance(statement, ast.Assign | ast.AnnAssign) and not _chooses(statement)
                for node in ast.walk(statement)
            }
            found |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == kind.__name__
                and id(node) not in listed
            }
    return found


def _chooses(statement: ast.Assign | ast.AnnAssign) -> bool:
    """Whether it is a table whose values, not keys, are reasons."""
    value = statement.value
    return isinstance(value, ast.Dict) and not any(isinstance(k, ast.Attribute) for k in value.keys)


@every_kind
def test_each_means_something_and_is_documented(kind: type[StrEnum]) -> None:
    meanings = WORDS[kind]
    assert set(meanings) == set(kind)
    assert len(set(meanings.values())) == len(meanings)
    for reason, meaning in meanings.items():
        assert re.fullmatch(r"([A-Z][a-z]+)+", reason), reason
        assert f"| `{reason}` | {meaning} |" in PAGE


@every_kind
def test_each_is_given_somewhere(kind: type[StrEnum]) -> None:
    assert used(kind) == {reason.name for reason in kind}


def test_each_of_a_request_has_its_status() -> None:
    for meaning in REFUSALS.values():
        assert re.match(r"4\d\d: ", meaning), meaning
    for reason in AccessRefusal:
        assert ACCESS_REFUSALS[reason].startswith(f"{STATUS[reason]}: ")


# Log and metric


def noted(metrics: Metrics, folder: Path, reason: StrEnum) -> dict[str, str]:
    """Has it noted, by whoever notes such; gives the other labels of its metric."""
    match reason:
        case Refusal():
            Refusals(metrics).note(401, reason, PEER)
            return {"status": "401"}
        case Drop():
            Connections(ConnectionSettings(), (), metrics).dropped(reason, PEER)
            return {}
        case AccessRefusal():
            assert AccessRefusals(metrics).note(reason, PEER) == STATUS[reason]
            return {"status": str(STATUS[reason])}
    assert isinstance(reason, TlsRefusal)
    own = write_server_certificate(folder)
    tls = TlsSettings(certificate=own.certificate, key=own.key)
    TlsPort("device", tls, metrics).refused(reason, PEER)
    return {"port": "device"}


PEER = "192.0.2.1"
TOLD: dict[type[StrEnum], tuple[str, str]] = {
    Refusal: ("request refused", "otaflux_requests_refused_total"),
    Drop: ("connection dropped", "otaflux_connections_dropped_total"),
    AccessRefusal: ("internal API request refused", "otaflux_internal_requests_refused_total"),
    TlsRefusal: ("TLS connections refused", "otaflux_tls_refused_total"),
}
SILENT = {Drop.IDLE, TlsRefusal.CLOSED}


@pytest.mark.parametrize("reason", [reason for kind in TOLD for reason in kind], ids=repr)
async def test_each_is_counted_and_logged(tmp_path: Path, reason: StrEnum) -> None:
    """How policies are rejected is in `test_signed_policies.py`."""
    event, metric = TOLD[type(reason)]
    metrics = Metrics()
    with capture_logs() as lines:
        labels = noted(metrics, tmp_path, reason)
    assert metrics.registry.get_sample_value(metric, {**labels, "reason": reason.value}) == 1
    told = [(line["reason"], line["peer"]) for line in lines if line["event"] == event]
    assert told == ([] if reason in SILENT else [(reason.value, PEER)])


# Of real requests


def cases() -> Iterator[Any]:
    (token,) = (way for way in WAYS if way.name == "Token")
    (certificate,) = (way for way in WAYS if way.name == "Certificate")
    (nginx,) = (way for way in WAYS if way.name == "IngressNginx")
    own, poll = f"device={DEVICE}", "/version"
    unknown = new_token()
    for way, asked, shown, status, reason in (
        (token, Asked("GET", poll, own), Credentials(), 401, Refusal.NO_TOKEN),
        (token, Asked("GET", poll, own), bearer(unknown), 401, Refusal.TOKEN_UNKNOWN),
        (token, Asked("GET", poll, own), bearer("secret-1"), 401, Refusal.MALFORMED_HEADER),
        (token, Asked("GET", poll, f"device={VICTIM}"), None, 403, Refusal.OTHER_DEVICE),
        (token, Asked("GET", f"/t/office{poll}", own), None, 403, Refusal.OTHER_NAMESPACE),
        (token, Asked("GET", poll, "device=%20"), None, 400, Refusal.INVALID_REQUEST),
        (token, Asked("PUT", poll, own), None, 405, Refusal.METHOD_NOT_ALLOWED),
        (token, Asked("GET", "/secret-2", own), None, 404, Refusal.NO_SUCH_PATH),
        (certificate, Asked("GET", poll, own), Credentials(), 401, Refusal.NO_CERTIFICATE),
        (nginx, Asked("GET", poll, own), Credentials(), 401, Refusal.UNTRUSTED_PEER),
    ):
        yield pytest.param(way, asked, shown, status, reason, id=reason.value)


@pytest.mark.parametrize(("way", "asked", "shown", "status", "reason"), list(cases()))
def test_a_request_that_is_refused_says_why_and_no_secret(
    tmp_path: Path, way: Any, asked: Asked, shown: Credentials | None, status: int, reason: Refusal
) -> None:
    own = way.shows(NAMESPACE, DEVICE)
    shown = own if shown is None else shown
    with serving_way(way, tmp_path) as served, capture_logs() as lines:
        told = ask(served, asked, shown)
        labels = {"status": str(status), "reason": reason.value}
        count = served.server.metrics.registry.get_sample_value(
            "otaflux_requests_refused_total", labels
        )
    assert (told.status, count) == (status, 1)
    (line,) = (line for line in lines if line["event"] == "request refused")
    assert (line["status"], line["reason"]) == (status, reason.value)
    secrets = [text.removeprefix("Bearer ") for _, text in shown.headers] + ["secret-2"]
    for secret in secrets:
        assert secret not in str(lines)
        assert secret not in told.body.decode()
