"""What goes wrong says so, with a reason of its own, and loses nothing; no secret is ever said."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from tests.e2e.conftest import Push
from tests.e2e.installations import (
    Firmware,
    Installation,
    canaries,
    condition,
    rollout,
)

OLD, NEW = Firmware.make("1.3.2"), Firmware.make("1.4.0", 30_001)


async def stalls(installation: Installation, kind: str, reason: str) -> dict[str, Any]:
    return await installation.reaches(
        lambda status: (
            condition(status, kind).get("reason") == reason
            and condition(status, kind)["observedGeneration"] == status["observedGeneration"]
        )
    )


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("verify", {"provider": "cosign", "secretRef": {"name": "signers"}}, "KeySecretNotFound"),
        ("windows", [{"schedule": "0 0 31 2 *", "duration": "4h"}], "InvalidSpec"),
    ],
)
async def test_what_cannot_be_done_says_which_field_and_serves_on(
    installation: Installation, push: Push, field: str, value: object, reason: str
) -> None:
    repository = await push(OLD, "1.3.2")
    await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.3.2"))
    await installation.gets("kitchen-1", OLD)
    await installation.phase("AwaitingApproval", "1.3.2")
    await installation.apply(rollout(repository, "1.4.0", **{field: value}))
    status = await stalls(installation, "Stalled", reason)
    assert f"spec.{field}" in condition(status, "Stalled")["message"]
    assert status["phase"] == "Stalled"
    assert await installation.version("kitchen-1") == OLD.answer


@pytest.mark.parametrize(
    ("artifact", "reason"),
    [
        ({"repository": "127.0.0.1:9/firmware"}, "RegistryUnreachable"),
        ({"repository": "169.254.169.254/firmware"}, "AddressRefused"),
        ({"tag": "absent"}, "ManifestNotFound"),
        ({"layerSelector": {"mediaType": "application/absent"}}, "NoFirmwareLayer"),
        ({"secretRef": {"name": "absent"}}, "SecretNotFound"),
    ],
)
async def test_a_release_that_cannot_be_had_leaves_the_last_one_served(
    installation: Installation, push: Push, artifact: dict[str, Any], reason: str
) -> None:
    repository = await push(OLD, "1.3.2")
    await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.3.2"))
    await installation.gets("kitchen-1", OLD)
    await installation.apply(rollout(repository, "1.4.0", artifact=artifact))
    status = await stalls(installation, "ArtifactResolved", reason)
    assert condition(status, "ArtifactResolved")["status"] == "False"
    assert condition(status, "ArtifactResolved")["message"]
    assert status["release"]["version"] == "1.3.2"
    await installation.gets("kitchen-1", OLD)


async def test_ambiguous_layers_are_an_error_until_a_selector_says_which(
    installation: Installation, registry_v3: Registry, oras: Oras, repository: str, tmp_path: Path
) -> None:
    (tmp_path / "app.bin").write_bytes(NEW.data)
    (tmp_path / "boot.bin").write_bytes(OLD.data)
    target = f"{registry_v3.host}/{repository}"
    await oras("push", "--plain-http", f"{target}:1.4.0", "app.bin:application/octet-stream",
               "boot.bin:application/octet-stream", cwd=tmp_path)  # fmt: skip
    await installation.apply(canaries("kitchen-1"), rollout(target, "1.4.0"))
    await stalls(installation, "ArtifactResolved", "AmbiguousLayers")
    assert await installation.version("kitchen-1") == 404
    await installation.apply(
        rollout(target, "1.4.0", artifact={"layerSelector": {"title": "app.bin"}})
    )
    await installation.gets("kitchen-1", NEW)


async def test_a_version_that_changes_its_digest_is_refused(
    installation: Installation, push: Push
) -> None:
    repository = await push(OLD, "1.4.0")
    as_new = Firmware("1.4.0", OLD.data)
    spec = {"artifact": {"interval": "1s"}}
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.4.0", **spec))
    await installation.gets("kitchen-1", as_new)
    await push(NEW, "1.4.0")
    await installation.reaches(
        lambda status: any(c["reason"] == "VersionDigestChanged" for c in status["conditions"])
    )
    await installation.gets("kitchen-1", as_new)


async def test_what_is_no_device_id_gets_400(installation: Installation) -> None:
    http, url = installation.http, installation.url
    for device in ("", "-x", "a b", "../../etc/passwd", "a%00b", "a" * 200):
        native = await http.get(f"{url}/version", params={"device": device})
        polled = await http.post(f"{url}/api/v1/poll", json={"device": device})
        assert (device, native.status_code, polled.status_code) == (device, 400, 400)


async def test_no_secret_is_ever_said(
    installation: Installation,
    registry_program: Path,
    oras: Oras,
    repository: str,
    tmp_path: Path,
) -> None:
    password, wrong = "correct-horse-battery", "incorrect-donkey-cell"
    async with Registry(registry_program, users={"robot$firmware": password}) as registry:
        (tmp_path / "firmware.bin").write_bytes(NEW.data)
        target = f"{registry.host}/{repository}"
        login = ("-u", "robot$firmware", "-p", password)
        file = "firmware.bin:application/octet-stream"
        await oras("push", "--plain-http", *login, f"{target}:1.4.0", file, cwd=tmp_path)

        async def secret(password: str) -> None:
            config = {
                "auths": {registry.host: {"username": "robot$firmware", "password": password}}
            }
            encoded = base64.b64encode(json.dumps(config).encode()).decode()
            await installation.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "type": "kubernetes.io/dockerconfigjson",
                    "metadata": {"name": "robot"},
                    "data": {".dockerconfigjson": encoded},
                }
            )

        named = {"secretRef": {"name": "robot"}, "interval": "1s"}
        await installation.apply(canaries("kitchen-1"), rollout(target, "1.4.0"))
        await stalls(installation, "ArtifactResolved", "Unauthorized")
        await secret(wrong)
        await installation.apply(rollout(target, "1.4.0", artifact=named))
        await stalls(installation, "ArtifactResolved", "Unauthorized")
        await secret(password)
        await installation.apply(rollout(target, "1.4.0", artifact=named, retryToken="now"))
        await installation.gets("kitchen-1", NEW)

    said = [process.log.read_text() for process in (installation.operator, installation.server)]
    said.append(await installation.kubectl("get", "fwr,dg,cm,events", "-o", "json"))
    said.append((await installation.internal.get("/metrics")).text)
    for path in ("rollouts", "artifacts", "devices"):
        said.append((await installation.internal.get(f"/internal/v1/{path}")).text)
    basic = [base64.b64encode(f"robot$firmware:{p}".encode()).decode() for p in (password, wrong)]
    for text in said:
        assert text
        for hidden in (password, wrong, *basic):
            assert hidden not in text
