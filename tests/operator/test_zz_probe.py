import pytest
from tests.fixtures.loopback_servers import Reply
from tests.operator.fakes import Cluster, eventually, running
from tests.operator.signed_registries import *
from tests.operator.signed_registries import FIRST, SECOND, SignedRegistry, becomes, verifying
from tests.operator.test_changing_signers import _open

RINGS = [
    {"name": "canary", "percent": 10, "success": {"minUpdatedPercent": 0, "minDevices": 0}},
    {"name": "fleet", "gate": "Approval"},
]

@pytest.mark.parametrize("known", [True, False])
async def test_down(known):
    async with SignedRegistry() as registry:
        registry.sign(registry.firmware("1.0.0"), FIRST)
        cluster, key = verifying(registry, rings=RINGS)
        async with running(cluster) as operator:
            await eventually(lambda: cluster.status(key).get("phase") == "AwaitingApproval")
            if not known:
                registry.rules.append(lambda _: Reply(500))
                await becomes(cluster, key, "Unknown/RegistryError") if False else None
            cluster.secrets["home", "signers"] = {"second.pub": SECOND.public}
            if known:
                await becomes(cluster, key, "False/KeyMismatch")
                registry.rules.append(lambda _: Reply(500))
            asked = len(registry.received)
            await eventually(lambda: len(registry.received) > asked + 6)
            print(cluster.condition(key, "Verified"))
            cluster.edit(key, approvals=[{"ring": "fleet", "release": "1.0.0", "effect": "Override"}])
            operator.mark(key)
            generation = cluster.objects[key]["metadata"]["generation"]
            await eventually(lambda: cluster.status(key)["observedGeneration"] == generation)
            asked = len(registry.received)
            await eventually(lambda: len(registry.received) > asked + 6)
            print(cluster.condition(key, "Verified"), cluster.condition(key, "Stalled"))
            assert _open(cluster, key) == ["canary"]
