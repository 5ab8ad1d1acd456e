"""Secrets that the operator makes by server-side apply: none is lost, nobody's is written over."""

import asyncio
import base64
from datetime import UTC, datetime

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_operator.kubernetes.apis import Api
from otaflux_operator.kubernetes.secrets import KubernetesCredentialEntries, KubernetesSecrets
from otaflux_operator.kubernetes.signing import SigningSecret
from otaflux_operator.signing import Signing
from otaflux_policy.credentials import RegistryAccess
from otaflux_policy.signing import SigningKey

NAME = "otaflux-policy-signing"


async def data(plane: ControlPlane, namespace: str, name: str) -> dict[str, bytes]:
    path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
    found = (await plane.request("GET", path)).raise_for_status().json().get("data") or {}
    return {key: base64.b64decode(value) for key, value in found.items()}


async def test_entries_that_are_added_at_one_time_are_all_there(
    control_plane: ControlPlane, namespace: str
) -> None:
    async with Api(control_plane.kubeconfig) as api:
        entries = KubernetesCredentialEntries(api, namespace, "pull")
        names = [f"entry-{number}" for number in range(8)]
        await asyncio.gather(
            *(entries.add(name, RegistryAccess(username=name, password="p")) for name in names)
        )
        assert await entries.names() == set(names)


async def test_a_signing_key_that_came_first_stays(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw that there is none; the slower one takes what the other wrote."""
    plane, theirs = control_plane, SigningKey.generate()
    async with Api(plane.kubeconfig) as api:
        signing = Signing()
        entries = KubernetesCredentialEntries(api, namespace, "pull")
        secret = SigningSecret(api, namespace, NAME, entries, signing)
        inner = KubernetesSecrets(api)
        looks = 0

        async def look(namespace: str, name: str) -> object:
            nonlocal looks
            found = await inner.secret(namespace, name)
            looks += 1
            if looks == 1:
                # What the operator is about to write, under the same name in it.
                made = f"{datetime.now(UTC):%Y%m%d}.key"
                text = theirs.dumps().decode()
                await plane.kubectl(
                    *("create", "secret", "generic", NAME, "-n", namespace),
                    f"--from-literal={made}={text}",
                )
            return found

        monkeypatch.setattr(secret._secrets, "secret", look)
        await secret.look()
    assert list((await data(plane, namespace, NAME)).values()) == [theirs.dumps()]
    assert [key.id for key in signing.public_keys] == [theirs.public.id]
