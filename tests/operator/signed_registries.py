"""A registry over real sockets whose firmware the test signs, and a cluster that pulls from it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from otaflux_oci.manifests import VERSION_ANNOTATION
from otaflux_oci.signatures.contents import LEGACY_SIGNATURE, LEGACY_TYPE
from otaflux_operator.operating import Operator
from otaflux_operator.ports import Key
from otaflux_operator.registries import RegistrySources
from otaflux_policy.contract import Release
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, manifest_of, sha256
from tests.fixtures.oci_sources import LOOPBACK, NAME, QUICK
from tests.fixtures.signers import KeyPair
from tests.operator.fakes import Cluster, eventually, rollout_key, running
from tests.operator.worlds import manifest

FIRST, SECOND = KeyPair.make("p256"), KeyPair.make("p256")
VERIFY = {"secretRef": {"name": "signers"}}


class SignedRegistry(MisbehavingRegistry):
    """Signatures as cosign's legacy form has them."""

    @property
    def repository(self) -> str:
        return f"{self.host}/{NAME}"

    def firmware(self, tag: str, *, version: str | None = None, **annotations: str) -> str:
        """The digest of new firmware that says it is `version` ("": nothing), else `tag`."""
        said = {f"io.otaflux.{name}": value for name, value in annotations.items()}
        if version != "":
            said[VERSION_ANNOTATION] = version or tag
        return self.push(NAME, tag, f"firmware {version or tag}".encode(), annotations=said)

    def sign(self, digest: str, *pairs: KeyPair, of: str = "") -> None:
        """Exactly these signatures of it; `of`: of another digest."""
        image = {"docker-manifest-digest": of or digest}
        critical = {"type": "cosign container image signature", "image": image}
        content = json.dumps({"critical": critical, "optional": None}).encode()
        self.blobs[sha256(content)] = content
        layers = [
            {
                "mediaType": LEGACY_TYPE,
                "digest": sha256(content),
                "size": len(content),
                "annotations": {LEGACY_SIGNATURE: signature(content, pair)},
            }
            for pair in pairs
        ]
        self.put(NAME, digest.replace(":", "-") + ".sig", manifest_of(b"", layers=layers))


def signature(content: bytes, pair: KeyPair) -> str:
    key = load_pem_private_key(pair.private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return base64.b64encode(key.sign(content, ec.ECDSA(hashes.SHA256()))).decode()


def verifying(
    registry: SignedRegistry, tag: str = "1.0.0", *, product: str = "", **spec: Any
) -> tuple[Cluster, Key]:
    """A cluster with one rollout of this tag; FIRST may sign."""
    cluster, key = Cluster(), rollout_key()
    cluster.sources = RegistrySources(LOOPBACK, QUICK)
    cluster.secrets["home", "signers"] = {"first.pub": FIRST.public}
    artifact = {"repository": registry.repository, "tag": tag, "insecure": True, "interval": "1s"}
    cluster.put(key, manifest(artifact=artifact, verify=VERIFY | {"product": product}, **spec))
    return cluster, key


def retag(operator: Operator, cluster: Cluster, key: Key, tag: str) -> None:
    """A person wants another tag."""
    artifact = cluster.objects[key]["spec"]["artifact"]
    cluster.edit(key, artifact=artifact | {"tag": tag})
    operator.mark(key)


def reason(cluster: Cluster, key: Key, type_: str = "Verified") -> str:
    known = cluster.condition(key, type_)
    return f"{known['status']}/{known['reason']}"


def version(release: Release | None) -> str | None:
    return release.version if release is not None else None


def target(cluster: Cluster, key: Key) -> str | None:
    policy = cluster.policy(key)
    return version(policy.target) if policy is not None else None


async def becomes(cluster: Cluster, key: Key, expected: str, type_: str = "Verified") -> None:
    await eventually(lambda: reason(cluster, key, type_) == expected, f"{type_} {expected}")


@asynccontextmanager
async def with_candidate(registry: SignedRegistry) -> AsyncIterator[tuple[Cluster, Key]]:
    """1.0.0 is released; 1.1.0, signed by FIRST, is about to be, once servers store it."""
    cluster, key = verifying(registry)
    async with running(cluster) as operator:
        await becomes(cluster, key, "True/Completed", "Completed")
        cluster.storing = False
        registry.sign(registry.firmware("1.1.0"), FIRST)
        retag(operator, cluster, key, "1.1.0")
        await eventually(lambda: "candidate" in cluster.status(key))
        yield cluster, key
