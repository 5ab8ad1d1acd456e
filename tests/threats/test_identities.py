"""Threats to identity: a device that acts as another, forged headers, another tenant's device.

Each attack runs with its mitigation, and fails, and without, and succeeds.
"""

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from otaflux_server.device_app import DeviceApp
from otaflux_server.identities import Identity, Scope, forwarding
from otaflux_server.identities.certificates import Certificates
from otaflux_server.identities.forwarding import ForwardedCertificates
from otaflux_server.refusals import Refusal
from tests.server.fleets import NAMESPACE, Served
from tests.server.identities.asking import Asked, Credentials, Told, ask, requests
from tests.server.identities.authorities import issue, uri
from tests.server.identities.ways import (
    CARRIERS,
    DEVICE,
    OTHER_NAMESPACE,
    PROXY,
    VICTIM,
    WAYS,
    Way,
    serving_way,
)

pytestmark = pytest.mark.parametrize("mitigated", [True, False])
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)

STRANGER = "192.0.2.7"
BELIEVES = {"proxy_headers": True}


def refused(served: Served, status: int, reason: Refusal) -> float:
    """How many requests were refused for this reason, by the metric."""
    sample = {"status": str(status), "reason": reason.value}
    registry = served.server.metrics.registry
    return registry.get_sample_value("otaflux_requests_refused_total", sample) or 0.0


def traces(served: Served) -> int:
    """What requests left behind: devices, and facts on their way to the database or in it."""
    state = served.call(served.server.evidence_state)
    return served.call(lambda: len(served.server.devices)) + state.waiting + state.written


def known(served: Served, namespace: str, device: str) -> bool:
    return served.call(lambda: served.server.devices.get(namespace, device)) is not None


def meet(served: Served, namespace: str, device: str) -> None:
    served.call(lambda: served.server.devices.seen(namespace, device, "native", 0.0))


def forget(served: Served, namespace: str, device: str) -> None:
    served.call(lambda: served.server.devices._records.pop((namespace, device), None))


@every_way
def test_device_a_cannot_act_as_device_b(
    mitigated: bool, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not mitigated:
        monkeypatch.setattr(Identity, "permits", lambda *_: True)
    with serving_way(way, tmp_path) as served:
        own = way.shows(NAMESPACE, DEVICE)
        asked = list(requests(served.server.device_app, VICTIM))
        asked += requests(served.server.device_app, VICTIM, prefix=f"/t/{NAMESPACE}")
        for request in asked:
            told = ask(served, request, own)
            if mitigated:
                assert told.status == 403, request
            else:
                assert told.status not in (401, 403), request
                assert known(served, NAMESPACE, VICTIM), request
                forget(served, NAMESPACE, VICTIM)
        if mitigated:
            assert traces(served) == 0
            assert refused(served, 403, Refusal.OTHER_DEVICE) == len(asked)
        for request in requests(served.server.device_app, DEVICE):
            assert ask(served, request, own).status not in (401, 403), request
        assert known(served, NAMESPACE, DEVICE)


@every_way
def test_nobody_acts_as_a_device(
    mitigated: bool, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_way(way, tmp_path) as served:
        app = served.server.device_app
        if not mitigated:
            anyone = Identity.of_device(NAMESPACE, VICTIM)
            monkeypatch.setattr(type(served.server.identifier), "identify", lambda *_: anyone)
        for request in requests(app, VICTIM):
            told = ask(served, request, Credentials(peer=PROXY))
            if mitigated:
                assert told.status == 401, request
                assert not told.read, request
                assert ("www-authenticate" in told.headers) == way.name.startswith("Token")
            else:
                assert known(served, NAMESPACE, VICTIM), request
                forget(served, NAMESPACE, VICTIM)
        if mitigated:
            assert traces(served) == 0


def first_header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


FORWARDED = [way for way in WAYS if way.name in ("Envoy-Cert", "Envoy", "IngressNginx", "RFC9440")]


def from_a_stranger(victim: Credentials) -> Credentials:
    return Credentials(headers=victim.headers, peer=STRANGER)


def twice(victim: Credentials) -> Credentials:
    other = ("Client-Cert", "x"), ("X-Forwarded-Client-Cert", "x"), ("ssl-client-cert", "x")
    return Credentials(headers=(*victim.headers, *other), peer=PROXY)


def not_verified(victim: Credentials) -> Credentials:
    headers = dict(victim.headers) | {"ssl-client-verify": "FAILED:certificate has expired"}
    return Credentials(headers=tuple(headers.items()), peer=PROXY)


FORGERIES: dict[str, tuple[Callable[[Credentials], Credentials], Refusal, tuple[Any, ...]]] = {
    "untrusted peer": (
        from_a_stranger,
        Refusal.UNTRUSTED_PEER,
        (ForwardedCertificates, "_is_trusted", lambda *_: True),
    ),
    "duplicates": (
        twice,
        Refusal.DUPLICATE_HEADER,
        (forwarding, "only_header", first_header),
    ),
    "verify=FAILED": (
        not_verified,
        Refusal.NOT_VERIFIED,
        (forwarding, "_is_verified", lambda _: True),
    ),
}


def forgeries() -> Iterator[Any]:
    for name in FORGERIES:
        for way in FORWARDED:
            if name != "verify=FAILED" or way.name == "IngressNginx":
                yield pytest.param(name, way, id=f"{name}-{way.name}")


@pytest.mark.parametrize(("name", "way"), list(forgeries()))
def test_forged_headers_are_nobodys(
    mitigated: bool, name: str, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged, reason, patch = FORGERIES[name]
    if not mitigated:
        monkeypatch.setattr(*patch)
    with serving_way(way, tmp_path) as served:
        asked = list(requests(served.server.device_app, VICTIM))
        for request in asked:
            told = ask(served, request, forged(way.shows(NAMESPACE, VICTIM)))
            assert (told.status == 401) is mitigated, (request, told)
            assert told.read is (request.body != b"" and not mitigated)
        assert refused(served, 401, reason) == (len(asked) if mitigated else 0)
        assert (traces(served) == 0) is mitigated


def test_a_forwarded_header_is_nothing_where_tls_ends_here(
    mitigated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the mitigation the server believes the proxies of another way."""
    (certificate,) = (way for way in WAYS if way.name == "Certificate")
    (nginx,) = (way for way in WAYS if way.name == "IngressNginx")
    with serving_way(certificate if mitigated else nginx, tmp_path) as served:
        for request in requests(served.server.device_app, VICTIM):
            told = ask(served, request, nginx.shows(NAMESPACE, VICTIM))
            assert (told.status == 401) is mitigated, request


def test_an_address_in_a_header_is_nobodys(
    mitigated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`X-Forwarded-For` says that the peer is the proxy; uvicorn would believe it, if asked to."""
    (rfc9440,) = (way for way in WAYS if way.name == "RFC9440")
    if not mitigated:
        believing = partial(uvicorn.Config, forwarded_allow_ips="*")
        monkeypatch.setattr(
            uvicorn, "Config", lambda *given, **more: believing(*given, **more | BELIEVES)
        )
    with serving_way(rfc9440, tmp_path) as served:
        (header,) = rfc9440.shows(NAMESPACE, VICTIM).headers
        forged = (": ".join(header), f"X-Forwarded-For: {PROXY}", f"Forwarded: for={PROXY}")
        body = json.dumps({"device": VICTIM}).encode()
        answer = served.post("/api/v1/poll", body, *forged)
        assert answer.status == (401 if mitigated else 200)
        assert refused(served, 401, Refusal.UNTRUSTED_PEER) == mitigated
        assert known(served, NAMESPACE, VICTIM) is not mitigated


def any_namespace(app: DeviceApp, identity: Identity, tenant: str | None) -> str:
    return tenant or app._namespace


@every_way
def test_a_tenant_reaches_no_other_tenants_devices(
    mitigated: bool, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also none that have the id of its own device; and it learns nothing of them."""
    if not mitigated:
        monkeypatch.setattr(DeviceApp, "_namespace_of", any_namespace)
        monkeypatch.setattr(Identity, "permits", lambda *_: True)
    with serving_way(way, tmp_path) as served:
        app = served.server.device_app
        own = way.shows(NAMESPACE, DEVICE)

        def answers(prefix: str, device: str) -> list[Told]:
            return [ask(served, request, own) for request in requests(app, device, prefix)]

        for device in (DEVICE, VICTIM):
            before = answers(f"/t/{OTHER_NAMESPACE}", device)
            if not mitigated:
                assert not {told.status for told in before} & {401, 403}
                assert known(served, OTHER_NAMESPACE, device)
                continue
            assert {told.status for told in before} == {403}
            assert not any(told.read for told in before)
            assert answers("/t/nobody-here", device) == before
            meet(served, OTHER_NAMESPACE, device)
            assert answers(f"/t/{OTHER_NAMESPACE}", device) == before
        if mitigated:
            assert not known(served, NAMESPACE, DEVICE)
            theirs = answers("", DEVICE)  # without a prefix it is its own namespace
            assert not {told.status for told in theirs} & {401, 403}
            assert known(served, NAMESPACE, DEVICE)


@every_way
def test_one_of_another_namespace_is_not_taken_for_the_same_id_here(
    mitigated: bool, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is one tenant only, an identity of another namespace is nobody's."""
    if not mitigated:
        monkeypatch.setattr(DeviceApp, "_namespace_of", any_namespace)
    identity = way.identity(tmp_path) | {"tenancy": "Single"}
    with serving_way(way, tmp_path, identity=identity) as served:
        app = served.server.device_app
        for request in requests(app, DEVICE):
            told = ask(served, request, way.shows(OTHER_NAMESPACE, DEVICE))
            assert (told.status == 403) is mitigated, request
        assert known(served, NAMESPACE, DEVICE) is not mitigated
        prefixed = Asked("GET", f"/t/{NAMESPACE}/version", f"device={DEVICE}")
        assert ask(served, prefixed, way.shows(NAMESPACE, DEVICE)).status == 404


@pytest.mark.parametrize("name", CARRIERS)
def test_an_expired_certificate_is_nobodys(
    mitigated: bool, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (way,) = (way for way in WAYS if way.name == name)
    day, hour = timedelta(days=1), timedelta(hours=1)
    expired = issue(uris=(uri(NAMESPACE, DEVICE),), begins=-2 * day, ends=-hour)
    with serving_way(way, tmp_path) as served:
        if not mitigated:
            yesterday = time.time() - day.total_seconds()
            identifier = served.server.identifier
            assert isinstance(identifier, Certificates | ForwardedCertificates)
            monkeypatch.setattr(identifier._reader, "_clock", lambda: yesterday)
        asked = list(requests(served.server.device_app, DEVICE))
        for request in asked:
            told = ask(served, request, CARRIERS[name](expired))
            assert (told.status == 401) is mitigated, request
        count = refused(served, 401, Refusal.CERTIFICATE_EXPIRED)
        assert count == (len(asked) if mitigated else 0)
