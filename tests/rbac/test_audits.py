"""The judges of RBAC, judged: they see what is missing and what is never used."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.rbac.audits import Grant, Request, grants, missing, objects, unused

ROOT = Path(__file__).parents[2] / "deploy" / "rbac"
GET = Request("s:a", "get", "secrets", "homes", "x", 200)


def grant(**changed: str) -> Grant:
    return replace(Grant("s:a", "get", "secrets", None, "homes"), **changed)


def test_a_refused_request_is_missing() -> None:
    refused = Request("s:a", "list", "otaflux.io/devicegroups", "", "", 403)
    assert missing([GET, refused]) == {"s:a may not list otaflux.io/devicegroups  in all"}


@pytest.mark.parametrize(
    "changed",
    [
        {"account": "s:b"},
        {"verb": "list"},
        {"resource": "secrets/status"},
        {"name": "y"},
        {"namespace": "other"},
    ],
)
def test_a_right_is_used_by_what_it_is_for_alone(changed: dict[str, str]) -> None:
    assert unused([grant()], [GET]) == set()
    assert unused([grant(name="x")], [GET]) == set()
    assert unused([grant(namespace="")], [GET]) == set()
    assert unused([grant(), grant(**changed)], [GET]) == {str(grant(**changed))}


def test_a_right_that_another_one_contains_is_unused() -> None:
    wide, narrow = grant(namespace=""), grant(name="x")
    assert unused([wide, narrow], [GET]) == {str(wide), str(narrow)}
    other = Request("s:a", "get", "secrets", "other", "z", 404)
    assert unused([wide, narrow], [GET, other]) == {str(narrow)}


@pytest.mark.parametrize("variant", ["cluster", "namespaced"])
def test_every_rule_is_given_to_one_of_the_two_programs(variant: str) -> None:
    given = list(grants(objects(ROOT / variant, namespaces=["homes"])))
    assert {grant.account for grant in given} == {
        "otaflux-system:otaflux-operator",
        "otaflux-system:otaflux-server",
    }
    assert len(given) == len(set(given))
    if variant == "namespaced":
        assert {grant.namespace for grant in given} == {"homes", "otaflux-system"}


@pytest.mark.parametrize("variant", ["cluster", "namespaced"])
def test_the_server_may_write_nothing_and_read_one_secret(variant: str) -> None:
    given = [
        grant
        for grant in grants(objects(ROOT / variant, namespaces=["homes"]))
        if grant.account == "otaflux-system:otaflux-server"
    ]
    writes = {grant.resource for grant in given if grant.verb not in ("get", "list", "watch")}
    assert writes <= {"authentication.k8s.io/tokenreviews"}
    assert {grant.name for grant in given if grant.resource == "secrets"} == {
        "otaflux-pull-credentials"
    }
