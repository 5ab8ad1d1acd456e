"""Both OpenAPI documents against a running server: what is described is what is answered."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from otaflux_policy.tokens import new_token
from otaflux_server.operations import document
from tests.server.fleets import Served, firmware, serving, settings
from tests.server.identities.ways import device_token, write

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 25
DOCUMENT = Path(__file__).parents[2] / "docs/reference/devices.openapi.json"
DEVICES = json.loads(DOCUMENT.read_text())
HEX = hashlib.sha256(firmware("1.4.0")).hexdigest()
METHODS = {"get", "head", "post", "put", "patch", "delete"}
MODES = pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = {"requests_burst": 1e6, "refusals_burst": 1e6}
    with serving(settings(tmp_path_factory.mktemp("data"), connections=limits)) as server:
        server.offer("1.4.0")
        yield server


def operations(described: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (path, method)
        for path, item in described["paths"].items()
        for method in item
        if method in METHODS
    ]


def conforms(
    described: dict[str, Any],
    path: str,
    method: str,
    mode: GenerationMode,
    base_url: str,
    *,
    most: int = EXAMPLES,
    token: str = "",
) -> set[int]:
    """Calls the operation with what the document says, or with what it does not; → the statuses.

    `token`: shown, in the place of what the generator thinks of.
    """
    shown = {"Authorization": f"Bearer {token}"} if token else None
    statuses: set[int] = set()
    operation = schemathesis.openapi.from_dict(described)[path][method.upper()]

    @given(case=operation.as_strategy(generation_mode=mode))
    @examples(
        max_examples=most,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def call(case: Any) -> None:
        answer = case.call_and_validate(base_url=base_url, checks=CHECKS, headers=shown)
        statuses.add(answer.status_code)

    with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with it
        call()
    return statuses


def open_objects(where: str, described: Any) -> Iterator[str]:
    """Answers that may have fields which the document does not name: nobody would notice them."""
    if isinstance(described, list):
        described = dict(enumerate(described))
    if isinstance(described, dict):
        if "properties" in described and described.get("additionalProperties") is not False:
            yield where
        for name, inner in described.items():
            if name != "requestBody":
                yield from open_objects(f"{where}/{name}", inner)


def test_answers_have_no_fields_but_those_described(served: Served) -> None:
    described = httpx.get(f"{served.server.internal_url}/openapi.json", timeout=30).json()
    assert list(open_objects("", DEVICES)) == []
    theirs = {f"/components/schemas/{name}" for name in ("HTTPValidationError", "ValidationError")}
    assert set(open_objects("", described)) <= theirs  # FastAPI's own


def test_the_document_is_of_all_routes(served: Served) -> None:
    routes = served.server.device_app.routes
    assert json.loads(json.dumps(document(routes))) == DEVICES
    for path, exchange in routes.items():
        shown = next(each for each in DEVICES["paths"] if each.partition("{")[0] == path)
        assert {method.upper() for method in DEVICES["paths"][shown]} == exchange.methods


@MODES
@pytest.mark.parametrize(("path", "method"), operations(DEVICES))
def test_the_device_port(served: Served, path: str, method: str, mode: GenerationMode) -> None:
    conforms(DEVICES, path, method, mode, served.server.device_url)


@MODES
def test_a_namespace_of_the_device_port(served: Served, mode: GenerationMode) -> None:
    for path, method in operations(DEVICES):
        conforms(DEVICES, path, method, mode, f"{served.server.device_url}/t/home", most=3)


@pytest.fixture(scope="module")
def token() -> str:
    return new_token()


@pytest.fixture(scope="module")
def token_served(tmp_path_factory: pytest.TempPathFactory, token: str) -> Iterator[Served]:
    """Devices need tokens; there is one for all of them, and another for one."""
    folder = tmp_path_factory.mktemp("tokens")
    write(folder / "tokens", device_token(token, devices=["*"]))
    identity = {"kind": "Token", "tokens": str(folder / "tokens")}
    limits = {"requests_burst": 1e6, "refusals_burst": 1e6}
    with serving(settings(folder / "data", connections=limits, identity=identity)) as server:
        server.offer("1.4.0")
        yield server


@MODES
@pytest.mark.parametrize("shown", ["its own", "none", "another"])
def test_the_device_port_with_tokens(
    token_served: Served, token: str, mode: GenerationMode, shown: str
) -> None:
    tokens = {"its own": token, "none": "", "another": new_token()}
    for prefix in ("", "/t/home", "/t/office"):
        for path, method in operations(DEVICES):
            url = f"{token_served.server.device_url}{prefix}"
            told = conforms(DEVICES, path, method, mode, url, most=4, token=tokens[shown])
            if shown != "its own":
                assert told <= {401}, (path, method)
            elif prefix == "/t/office":
                assert told <= {403}, (path, method)
            else:
                assert not told & {401, 403}, (path, method)


@MODES
def test_the_internal_api(served: Served, mode: GenerationMode) -> None:
    described = httpx.get(f"{served.server.internal_url}/openapi.json", timeout=30).json()
    assert len(operations(described)) > 5
    for path, method in operations(described):
        conforms(described, path, method, mode, served.server.internal_url)


@pytest.mark.parametrize(
    ("path", "method", "given", "status"),
    [
        ("/version", "GET", {}, 200),
        ("/version", "HEAD", {}, 200),
        ("/version", "GET", {"query": {"device": "_"}}, 400),
        ("/firmware", "GET", {}, 200),
        ("/firmware", "GET", {"headers": {"Range": "bytes=1-2"}}, 206),
        ("/firmware", "GET", {"headers": {"Range": "bytes=9999-"}}, 416),
        ("/firmware", "GET", {"headers": {"If-None-Match": "*"}}, 304),
        ("/firmware", "GET", {"query": {"device": "nobody"}}, 404),
        ("/artifacts/sha256/{hex}", "GET", {"path_parameters": {"hex": HEX}}, 200),
        ("/artifacts/sha256/{hex}", "GET", {"path_parameters": {"hex": "0" * 64}}, 404),
        ("/api/v1/poll", "POST", {"body": {"device": "b"}}, 200),
        ("/api/v1/poll", "POST", {"body": {"device": "b", "x": "y" * 70_000}}, 413),
        ("/api/v1/report", "POST", {"body": {"device": "b", "release": "1.4.0"}}, 400),
        (
            "/api/v1/report",
            "POST",
            {"body": {"device": "b", "release": "1.4.0", "state": "Downloading"}},
            200,
        ),
    ],
)
def test_answers_that_need_a_release(
    served: Served, path: str, method: str, given: dict[str, Any], status: int
) -> None:
    # The device runs the release: it may fetch it as often as it likes.
    for said in ("", "&version=1.4.0"):
        assert served.get(f"/version?device=a{said}").status == 200
    values = {"query": {} if "body" in given else {"device": "a"}, **given}
    if "body" in given:
        values["media_type"] = "application/json"
    case = schemathesis.openapi.from_dict(DEVICES)[path][method].Case(**values)
    answer = case.call_and_validate(base_url=served.server.device_url, checks=CHECKS)
    assert answer.status_code == status


def test_being_told_to_wait_is_described(tmp_path: Path) -> None:
    limits = {"requests_burst": 1, "requests_per_second": 0.01}
    with serving(settings(tmp_path, connections=limits)) as served:
        served.get("/version?device=a")
        for path, method, given in (
            ("/version", "GET", {"query": {"device": "a"}}),
            ("/api/v1/poll", "POST", {"body": {"device": "a"}, "media_type": "application/json"}),
        ):
            case = schemathesis.openapi.from_dict(DEVICES)[path][method].Case(**given)
            answer = case.call_and_validate(base_url=served.server.device_url, checks=CHECKS)
            assert answer.status_code == 429
