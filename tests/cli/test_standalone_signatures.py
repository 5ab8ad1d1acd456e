"""`spec.verify` standalone: keys from a Secret among the manifests, signatures from the layout."""

from pathlib import Path
from typing import Any

import httpx

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_cli.standalone.running import Standalone
from otaflux_oci import ImageLayout, Repository
from otaflux_operator.ports import Kind
from tests.cli.places import Place, image
from tests.cli.waiting import until
from tests.fixtures.signers import Cosign

MANIFEST = """
apiVersion: otaflux.io/v1alpha1
kind: FirmwareRollout
metadata: {name: firmware}
spec:
  artifact: {repository: localhost/firmware, tag: 1.3.2, interval: 1s}
  verify: {secretRef: {name: signers}}
  deviceSelector: {}
  rings:
    - name: all
      success: {minUpdatedPercent: 0, minDevices: 0}
"""


def condition(running: Standalone) -> dict[str, Any]:
    (found,) = running.database.resources(Kind.ROLLOUT)
    conditions = found["status"].get("conditions", ())
    return next((known for known in conditions if known["type"] == "Verified"), {"reason": ""})


async def test_a_layout_with_signatures(
    registry_v3: Registry, oras: Oras, cosign: Cosign, repository: str, tmp_path: Path
) -> None:
    place, key = Place(tmp_path), cosign.key("p256")
    place.add("1.3.2")
    place.file.write_text(MANIFEST)

    async def reason(expected: str) -> None:
        async def reached() -> bool:
            return bool(condition(running)["reason"] == expected)

        await until(reached)

    async with place.running() as running:
        await reason("KeySecretNotFound")
        (place.manifests / "signers.yaml").write_text(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: signers}\nstringData:\n  own.pub: |\n"
            + "".join(f"    {line}\n" for line in key.public.decode().splitlines())
        )
        await reason("SignatureMissing")
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"{running.device_url}/firmware?device=kitchen-1"
            assert (await client.get(url)).status_code == 404

            layout = ImageLayout(tmp_path / "firmware")
            digest = await layout.digest(Repository.parse("localhost/firmware"), "1.3.2")
            there = f"{registry_v3.host}/{repository}"
            here = f"firmware@{digest}"
            await oras(
                "cp", "--from-oci-layout", "--to-plain-http", here, f"{there}:1.3.2", cwd=tmp_path
            )
            await cosign.sign(f"{there}@{digest}", key)
            await oras(
                "cp",
                "--recursive",
                "--from-plain-http",
                "--to-oci-layout",
                f"{there}@{digest}",
                here,
                cwd=tmp_path,
            )

            await reason("Verified")
            assert "own.pub" in condition(running)["message"]

            async def serves() -> bool:
                await client.get(f"{running.device_url}/version?device=kitchen-1")
                return (await client.get(url)).content == image("1.3.2")

            await until(serves)
