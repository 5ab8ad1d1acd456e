"""What the API server's audit log says of a program, against the rights that were given to it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FORBIDDEN = 403


@dataclass(frozen=True)
class Request:
    """A request of a ServiceAccount (`namespace:name`) that was answered, or a watch that began."""

    account: str
    verb: str
    resource: str
    """With its API group and subresource: `otaflux.io/firmwarerollouts/status`."""
    namespace: str
    name: str
    status: int


@dataclass(frozen=True)
class Grant:
    """One verb on one resource, as a rule of a Role gives it. Namespace "": in all of them."""

    account: str
    verb: str
    resource: str
    name: str | None
    namespace: str

    def covers(self, request: Request) -> bool:
        """Whether this right is enough for the request (RBAC: rights only add up)."""
        return (
            (self.account, self.verb, self.resource)
            == (request.account, request.verb, request.resource)
            and self.name in (None, request.name)
            and self.namespace in ("", request.namespace)
        )

    def __str__(self) -> str:
        named = "" if self.name is None else f" {self.name}"
        return f"{self.account} may {self.verb} {self.resource}{named} in {self.namespace or 'all'}"


def requests(log: Path) -> Iterator[Request]:
    """The requests of ServiceAccounts for resources."""
    for line in log.read_text().splitlines():
        event = json.loads(line)
        user, _, account = event["user"]["username"].partition("serviceaccount:")
        found = event.get("objectRef")
        if not user or found is None:
            continue
        parts = (found.get("apiGroup"), found["resource"], found.get("subresource"))
        status = event.get("responseStatus", {}).get("code", 0)
        request = Request(
            account,
            event["verb"],
            "/".join(filter(None, parts)),
            found.get("namespace", ""),
            found.get("name", "") or _selected(event["requestURI"]),
            status,
        )
        yield request
        if request.verb == "patch" and status == 201:
            # Server-side apply asks for the right to create what is not there.
            yield Request(**{**vars(request), "verb": "create"})


def _selected(uri: str) -> str:
    """The one name that a list or watch is narrowed to, which counts as that of the object."""
    _, found, rest = uri.partition("fieldSelector=metadata.name%3D")
    return rest.partition("&")[0] if found else ""


def grants(objects: Iterable[dict[str, Any]]) -> Iterator[Grant]:
    """What the Roles and ClusterRoles among these objects give, by their bindings."""
    objects = list(objects)
    roles = {
        (found["kind"], found["metadata"].get("namespace", ""), found["metadata"]["name"]): found
        for found in objects
        if found["kind"] in ("Role", "ClusterRole")
    }
    for binding in objects:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        where = binding["metadata"].get("namespace", "")
        kind = binding["roleRef"]["kind"]
        role = roles[kind, where if kind == "Role" else "", binding["roleRef"]["name"]]
        for subject in binding["subjects"]:
            account = f"{subject['namespace']}:{subject['name']}"
            for rule in role["rules"]:
                yield from _rule(account, where, rule)


def _rule(account: str, namespace: str, rule: dict[str, Any]) -> Iterator[Grant]:
    assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                assert "*" not in (group, resource, verb), rule
                for name in rule.get("resourceNames", (None,)):
                    full = f"{group}/{resource}" if group else resource
                    yield Grant(account, verb, full, name, namespace)


def missing(made: Iterable[Request]) -> set[str]:
    """Requests that were refused."""
    return {
        f"{one.account} may not {one.verb} {one.resource} {one.name} in {one.namespace or 'all'}"
        for one in made
        if one.status == FORBIDDEN
    }


def unused(given: Iterable[Grant], made: Iterable[Request]) -> set[str]:
    """Rights without which every request would have been allowed all the same."""
    given = list(given)
    needed = set()
    for request in set(made):
        enough = [grant for grant in given if grant.covers(request)]
        if len(enough) == 1:
            needed.add(enough[0])
    return {str(grant) for grant in given if grant not in needed}


def objects(folder: Path, *, namespaces: Iterable[str]) -> list[dict[str, Any]]:
    """All objects of a folder's files; those without a namespace once for each of `namespaces`."""
    found: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*.yaml")):
        for item in yaml.safe_load_all(file.read_text()):
            named = "namespace" in item["metadata"] or item["kind"].startswith("Cluster")
            for namespace in (None,) if named else namespaces:
                metadata = item["metadata"] | ({"namespace": namespace} if namespace else {})
                found.append(item | {"metadata": metadata})
    return found
