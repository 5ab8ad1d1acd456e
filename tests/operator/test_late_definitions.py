"""An operator that was there before the CustomResourceDefinitions."""

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from tests.fixtures.servers import apply_our_crds, require_parts
from tests.operator.clusters import Rollout, eventually, operating


@pytest.mark.servers
async def test_it_begins_once_they_are_applied() -> None:
    require_parts("etcd", "kube-apiserver", "kubectl")
    async with ControlPlane() as plane:
        await plane.create_namespace("homes")
        async with operating(plane, "homes") as running:

            async def trouble() -> str:
                return running.operator.trouble if running.operator is not None else ""

            await eventually(trouble, lambda said: "apply the CRDs" in said)
            await apply_our_crds(plane)
            rollout = Rollout(plane, "homes")
            await rollout.apply("127.0.0.1:9/firmware", "1.0.0")
            await rollout.has("ArtifactResolved", "False/RegistryUnreachable")
            # What is changed later is seen by the watch, as no sweep looks at what is published.
            await rollout.apply("127.0.0.1:9/firmware", "1.0.0", state="Paused")
            await eventually(
                rollout.policy, lambda said: said is not None and said.state == "Paused"
            )
