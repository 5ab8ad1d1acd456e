"""Keys that may sign come and go: what is released is checked by those there are."""

from collections.abc import Callable

import pytest

from otaflux_operator.ports import Key
from tests.fixtures.loopback_servers import Reply
from tests.operator.fakes import Cluster, eventually, running
from tests.operator.signed_registries import (
    FIRST,
    SECOND,
    SignedRegistry,
    becomes,
    reason,
    retag,
    target,
    verifying,
    with_candidate,
)

RINGS = [
    {"name": "canary", "percent": 10, "success": {"minUpdatedPercent": 0, "minDevices": 0}},
    {"name": "fleet", "gate": "Approval"},
]


async def test_rotation_of_keys(registry: SignedRegistry) -> None:
    cluster, key = verifying(registry)
    async with running(cluster) as operator:
        await becomes(cluster, key, "True/Completed", "Completed")
        cluster.secrets["home", "signers"] = {
            "first.pub": FIRST.public,
            "second.pub": SECOND.public,
        }
        registry.sign(registry.firmware("1.1.0"), SECOND)
        retag(operator, cluster, key, "1.1.0")
        await eventually(lambda: target(cluster, key) == "1.1.0")
        verified = len(registry.asked(".sig"))
        cluster.secrets["home", "signers"] = {"second.pub": SECOND.public}
        await eventually(lambda: len(registry.asked(".sig")) > verified)
        asked = len(registry.received)
        await eventually(lambda: len(registry.received) > asked + 3)
        assert reason(cluster, key) == "True/Verified"
        assert cluster.status(key)["release"]["verification"]["key"] == "second.pub"


async def test_a_release_whose_key_was_removed_is_served_on_and_says_so(
    registry: SignedRegistry,
) -> None:
    cluster, key = verifying(registry)
    async with running(cluster):
        await becomes(cluster, key, "True/Completed", "Completed")
        cluster.secrets["home", "signers"] = {"second.pub": SECOND.public}
        await becomes(cluster, key, "False/KeyMismatch")
        assert "does not verify any more" in cluster.condition(key, "Verified")["message"]
        assert target(cluster, key) == "1.0.0"
        registry.sign(registry.firmware("1.0.0"), SECOND)
        await becomes(cluster, key, "True/Verified")
        await eventually(
            lambda: cluster.status(key)["release"]["verification"]["key"] == "second.pub"
        )


async def test_the_current_release_is_checked_too_where_the_tag_is_another(
    registry: SignedRegistry,
) -> None:
    cluster, key = verifying(registry)
    registry.sign(registry.firmware("0.9.0"), SECOND)
    async with running(cluster) as operator:
        await becomes(cluster, key, "True/Completed", "Completed")
        retag(operator, cluster, key, "0.9.0")
        await becomes(cluster, key, "False/KeyMismatch")
        cluster.secrets["home", "signers"] = {"second.pub": SECOND.public}
        await eventually(lambda: "1.0.0 is released and does not verify" in _message(cluster, key))
        assert target(cluster, key) == "1.0.0"


def _message(cluster: Cluster, key: Key) -> str:
    return cluster.condition(key, "Verified")["message"]


def approve(cluster: Cluster, key: Key) -> Callable[[], bool]:
    """A person opens the ring of the fleet; returned: whether the operator has seen that."""
    cluster.edit(key, approvals=[{"ring": "fleet", "release": "1.0.0", "effect": "Override"}])
    generation = cluster.objects[key]["metadata"]["generation"]
    return lambda: bool(cluster.status(key)["observedGeneration"] == generation)


async def test_no_further_ring_opens_once_the_release_does_not_verify(
    registry: SignedRegistry,
) -> None:
    cluster, key = verifying(registry, rings=RINGS)
    async with running(cluster) as operator:
        await eventually(lambda: cluster.status(key).get("phase") == "AwaitingApproval")
        cluster.secrets["home", "signers"] = {"second.pub": SECOND.public}
        await becomes(cluster, key, "False/KeyMismatch")
        seen = approve(cluster, key)
        operator.mark(key)
        await eventually(seen)
        await becomes(cluster, key, "False/KeyMismatch")
        assert _open(cluster, key) == ["canary"]
        cluster.secrets["home", "signers"] = {"first.pub": FIRST.public}
        await eventually(lambda: _open(cluster, key) == ["canary", "fleet"])


def _open(cluster: Cluster, key: Key) -> list[str]:
    policy = cluster.policy(key)
    return [ring.name for ring in policy.rings if ring.open] if policy is not None else []


@pytest.mark.parametrize("known", [True, False])
async def test_a_registry_that_falls_silent_makes_nothing_trusted_again(
    registry: SignedRegistry, known: bool
) -> None:
    """`known`: that the release does not verify by the new keys; else only that they are new."""
    cluster, key = verifying(registry, rings=RINGS)
    async with running(cluster) as operator:
        await eventually(lambda: cluster.status(key).get("phase") == "AwaitingApproval")
        if not known:
            registry.rules.append(lambda _: Reply(500))
        cluster.secrets["home", "signers"] = {"second.pub": SECOND.public}
        await becomes(cluster, key, "False/KeyMismatch" if known else "Unknown/RegistryError")
        registry.rules.append(lambda _: Reply(500))
        asked = len(registry.received)
        await eventually(lambda: len(registry.received) > asked + 3)
        seen = approve(cluster, key)
        operator.mark(key)
        await eventually(seen)
        assert _open(cluster, key) == ["canary"]
        registry.rules.clear()
        cluster.secrets["home", "signers"] = {"first.pub": FIRST.public}
        await eventually(lambda: _open(cluster, key) == ["canary", "fleet"])


async def test_a_release_that_is_gone_is_not_trusted_by_new_keys(registry: SignedRegistry) -> None:
    """Whoever holds the old key and the registry could hide it from the new one."""
    cluster, key = verifying(registry, rings=RINGS)
    gone = registry.firmware("1.0.0")
    registry.sign(registry.firmware("0.9.0"), SECOND)
    async with running(cluster) as operator:
        await eventually(lambda: cluster.status(key).get("phase") == "AwaitingApproval")
        retag(operator, cluster, key, "0.9.0")
        await becomes(cluster, key, "False/KeyMismatch")
        await eventually(lambda: bool(registry.asked(f"/manifests/{gone}")))
        registry.rules.append(
            lambda request: Reply(404) if request.path.endswith(gone) else None,
        )
        cluster.secrets["home", "signers"] = {"second.pub": SECOND.public}
        await eventually(
            lambda: "by those there are now it cannot be checked" in _message(cluster, key)
        )
        assert target(cluster, key) == "1.0.0"


async def test_no_ring_opens_after_a_restart_until_the_keys_were_tried(
    registry: SignedRegistry,
) -> None:
    cluster, key = verifying(registry, rings=RINGS)
    async with running(cluster):
        await eventually(lambda: cluster.status(key).get("phase") == "AwaitingApproval")
    cluster.secrets["home", "signers"] = {"second.pub": SECOND.public}
    seen = approve(cluster, key)
    registry.rules.append(lambda _: Reply(500))
    async with running(cluster):
        await becomes(cluster, key, "Unknown/RegistryError")
        await eventually(seen)
        assert "no further ring of 1.0.0 opens" in _message(cluster, key)
        assert _open(cluster, key) == ["canary"]
        registry.rules.clear()
        await becomes(cluster, key, "False/KeyMismatch")
        assert _open(cluster, key) == ["canary"]


async def test_a_candidate_whose_key_is_removed_is_none_any_more(
    registry: SignedRegistry,
) -> None:
    async with with_candidate(registry) as (cluster, key):
        cluster.secrets["home", "signers"] = {"second.pub": SECOND.public}
        await becomes(cluster, key, "False/KeyMismatch")
        cluster.storing = True
        await eventually(lambda: "candidate" not in cluster.status(key))
        assert target(cluster, key) == "1.0.0"


async def test_a_candidate_does_not_go_out_while_the_keys_are_not_known(
    registry: SignedRegistry,
) -> None:
    async with with_candidate(registry) as (cluster, key):
        cluster.secrets["home", "signers"] = {"second.pub": SECOND.public}
        registry.rules.append(lambda _: Reply(500))
        await becomes(cluster, key, "Unknown/RegistryError")
        cluster.storing = True
        asked = len(registry.received)
        await eventually(lambda: len(registry.received) > asked + 3)
        assert target(cluster, key) == "1.0.0"
