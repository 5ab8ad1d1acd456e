"""The key that policies are signed with is changed, and ConfigMaps are copied, under devices."""

import base64
import json
from typing import Any

from otaflux_policy.signing import SigningKey
from tests.e2e.conftest import Push
from tests.e2e.installations import Firmware, Installation, canaries, eventually, rollout

NEW = Firmware.make("1.4.0")
SECRET = "otaflux-policy-signing"


async def get(installation: Installation, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        await installation.kubectl("get", kind, name, "-o", "json", "--ignore-not-found") or "{}"
    )
    return found


async def signer(installation: Installation) -> str:
    """The id of the key that the policy is signed with."""
    found = await get(installation, "configmap", "otaflux-policy-thermostat")
    return str(found["data"]["policy.json.sig"]).split()[0]


async def trusted(installation: Installation) -> list[str]:
    """The ids of the keys that the servers know."""
    reply = await installation.internal.get(
        f"/internal/v1/rollouts/{installation.namespace}/thermostat"
    )
    found: list[str] = reply.json()["policyKeys"]
    return found


async def test_the_key_is_changed_and_no_device_notices(
    installation: Installation, push: Push
) -> None:
    repository = await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.4.0"))
    await installation.gets("kitchen-1", NEW)
    old = await signer(installation)
    assert await trusted(installation) == [old]
    key = SigningKey.generate()
    added = {"data": {"zz.key": base64.b64encode(key.dumps()).decode()}}
    (first,) = (await get(installation, "secret", SECRET))["data"]
    await installation.kubectl("patch", "secret", SECRET, "--type=merge", "-p", json.dumps(added))
    await eventually(lambda: signer(installation), lambda found: found == key.public.id)
    assert sorted(await trusted(installation)) == sorted([old, key.public.id])
    gone = json.dumps({"data": {first: None}})
    await installation.kubectl("patch", "secret", SECRET, "--type=merge", "-p", gone)
    await eventually(lambda: trusted(installation), lambda ids: ids == [key.public.id])
    assert await installation.version("kitchen-1") == NEW.answer
    # A server that starts now knows no other key.
    await installation.server.restart()
    await installation.gets("kitchen-1", NEW)
    await installation.apply(rollout(repository, "1.4.0", state="Paused"))
    await installation.gets("kitchen-1", 404)


async def test_a_copy_of_a_policy_is_of_no_use_and_is_taken_away(
    installation: Installation, push: Push
) -> None:
    repository = await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.4.0"))
    await installation.gets("kitchen-1", NEW)
    found = await get(installation, "configmap", "otaflux-policy-thermostat")
    copy = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "otaflux-policy-copy", "labels": found["metadata"]["labels"]},
        "data": found["data"],
    }
    await installation.apply(copy)
    await eventually(
        lambda: get(installation, "configmap", "otaflux-policy-copy"), lambda found: found == {}
    )
    assert await installation.version("kitchen-1") == NEW.answer
    assert await installation.version("hall-1") == 404
