"""Signed firmware on the real API server, with the real cosign and registry, up to the device."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from tests.e2e.installations import Firmware, Installation, canaries, condition, rollout
from tests.fixtures.signers import Cosign, Form, KeyPair

OLD, NEW, NEWER = (
    Firmware.make("1.3.2"),
    Firmware.make("1.4.0", 30_001),
    Firmware.make("1.5.0", 40_001),
)
VERIFY = {"verify": {"secretRef": {"name": "signers"}, "product": "thermostat"}}


class Releases:
    """A repository to push to and sign in."""

    def __init__(self, registry: Registry, oras: Oras, cosign: Cosign, name: str, folder: Path):
        self.repository = f"{registry.host}/{name}"
        self._oras, self._cosign, self._folder = oras, cosign, folder
        self._digests: dict[str, str] = {}

    async def push(self, firmware: Firmware) -> None:
        (self._folder / "firmware.bin").write_bytes(firmware.data)
        target = f"{self.repository}:{firmware.version}"
        await self._oras(
            "push", "--plain-http", target, "firmware.bin:application/octet-stream",
            "--annotation", f"org.opencontainers.image.version={firmware.version}",
            "--annotation", "io.otaflux.product=thermostat",
            cwd=self._folder,
        )  # fmt: skip
        digest = await self._oras("resolve", "--plain-http", target)
        self._digests[firmware.version] = digest.strip()

    async def sign(self, firmware: Firmware, key: KeyPair, form: Form = Form.BUNDLE) -> None:
        digest = self._digests[firmware.version]
        await self._cosign.sign(f"{self.repository}@{digest}", key, form)

    def rollout(self, tag: str) -> dict[str, Any]:
        return rollout(self.repository, tag, artifact={"interval": "1s"}, **VERIFY)


@pytest.fixture
def releases(
    registry_v3: Registry, oras: Oras, cosign: Cosign, repository: str, tmp_path: Path
) -> Releases:
    return Releases(registry_v3, oras, cosign, repository, tmp_path)


def signers(**keys: KeyPair) -> dict[str, Any]:
    data = {f"{name}.pub": base64.b64encode(pair.public).decode() for name, pair in keys.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "signers"}, "data": data}


async def verified(installation: Installation, expected: str) -> dict[str, Any]:
    """The status once `Verified` is this, as `True/Verified`."""

    def accept(status: dict[str, Any]) -> bool:
        known = condition(status, "Verified")
        return f"{known.get('status')}/{known.get('reason')}" == expected

    return await installation.reaches(accept)


async def test_an_unsigned_tag_waits_for_its_signature_and_keys_rotate(
    installation: Installation, releases: Releases, cosign: Cosign
) -> None:
    first, second = cosign.key("first", "p256"), cosign.key("second", "rsa2048")
    await releases.push(OLD)
    await releases.sign(OLD, first, Form.LEGACY)
    await installation.apply(signers(first=first), canaries("kitchen-1"), releases.rollout("1.3.2"))
    await installation.gets("kitchen-1", OLD)
    status = await verified(installation, "True/Verified")
    assert status["release"]["verification"]["key"] == "first.pub"

    await releases.push(NEW)
    await installation.apply(releases.rollout("1.4.0"))
    status = await verified(installation, "False/SignatureMissing")
    assert condition(status, "Stalled")["reason"] == "SignatureMissing"
    assert condition(status, "ArtifactResolved")["status"] == "True"
    assert "cosign sign" in condition(status, "Verified")["message"]
    assert "candidate" not in status
    await installation.gets("kitchen-1", OLD, never=(NEW,))

    await releases.sign(NEW, first)
    await installation.gets("kitchen-1", NEW)
    await verified(installation, "True/Verified")

    await installation.apply(signers(first=first, second=second))
    await releases.push(NEWER)
    await releases.sign(NEWER, second)
    await installation.apply(releases.rollout("1.5.0"))
    await installation.gets("kitchen-1", NEWER)
    await installation.apply(signers(second=second))
    status = await verified(installation, "True/Verified")
    assert status["release"]["verification"]["key"] == "second.pub"

    await installation.apply(signers(first=first))
    status = await verified(installation, "False/KeyMismatch")
    assert condition(status, "Stalled")["status"] == "True"
    await installation.gets("kitchen-1", NEWER)


async def test_without_the_key_secret_nothing_new_is_released(
    installation: Installation, releases: Releases, cosign: Cosign
) -> None:
    key = cosign.key("first", "p256")
    for firmware in (OLD, NEW):
        await releases.push(firmware)
        await releases.sign(firmware, key)
    await installation.apply(signers(first=key), canaries("kitchen-1"), releases.rollout("1.3.2"))
    await installation.gets("kitchen-1", OLD)
    await installation.kubectl("delete", "secret", "signers")
    await installation.apply(releases.rollout("1.4.0"))
    status = await verified(installation, "False/KeySecretNotFound")
    assert condition(status, "Stalled")["reason"] == "KeySecretNotFound"
    await installation.gets("kitchen-1", OLD, never=(NEW,))
    await installation.apply(signers(first=cosign.key("ed25519")))
    status = await verified(installation, "False/KeyUnsupported")
    assert "Ed25519ph" in condition(status, "Stalled")["message"]
    await installation.apply(signers(first=key))
    await installation.gets("kitchen-1", NEW)
