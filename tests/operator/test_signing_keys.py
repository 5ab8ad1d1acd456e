"""The keys that policies are signed with: made, given, changed, broken, on a real API server."""

import base64
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from otaflux_operator.kubernetes import signing as signing_secrets
from otaflux_operator.ports import Key
from otaflux_policy.canonical import InvalidPolicy, loads_policy, seal
from otaflux_policy.contract import Policy
from otaflux_policy.groups import Group
from otaflux_policy.rejections import RejectionReason
from otaflux_policy.signing import SigningKey, entry_key, verify
from tests.operator.clusters import Rollout, UpdateServer, config_map, eventually, operating
from tests.operator.clusters import update_server as served
from tests.server.signatures import config_map as signed_config_map

KEYS = [SigningKey.generate() for _ in range(3)]
SECRET = "otaflux-policy-signing"
NOBODYS = {"labels": None, "ownerReferences": None}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_secrets, "EVERY", 0.05)


async def data(rollout: Rollout, name: str) -> dict[str, bytes]:
    path = f"/api/v1/namespaces/{rollout.namespace}/secrets/{name}"
    response = await rollout.plane.request("GET", path)
    found: dict[str, str] = response.json().get("data") or {}
    return {key: base64.b64decode(value) for key, value in found.items()}


async def give(rollout: Rollout, **keys: bytes) -> None:
    """The Secret as a person makes it; a name without its suffix."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET},
        "data": {f"{name}.key": base64.b64encode(text).decode() for name, text in keys.items()},
    }
    path = f"/api/v1/namespaces/{rollout.namespace}/secrets"
    response = await rollout.plane.request("POST", path, secret)
    if response.status_code == 409:
        response = await rollout.plane.request("PUT", f"{path}/{SECRET}", secret)
    response.raise_for_status()


def in_state(state: str) -> Callable[[Policy | None], bool]:
    return lambda found: found is not None and found.state == state


async def tamper(rollout: Rollout, **change: Any) -> None:
    """Somebody writes this into the policy's ConfigMap."""
    patch, name = json.dumps(change), "otaflux-policy-thermostat"
    await rollout.kubectl("patch", "configmap", name, "--type=merge", "-p", patch)


async def entries(rollout: Rollout) -> dict[str, bytes]:
    """What servers get."""
    return await data(rollout, "otaflux-pull-credentials")


def signed_with(key: SigningKey) -> Callable[[dict[str, Any] | None], bool]:
    """Whether a ConfigMap is, as a server would look at it."""

    def accept(found: dict[str, Any] | None) -> bool:
        content = (found or {}).get("data") or {}
        for kind, name in ((Policy, "policy.json"), (Group, "group.json")):
            if name in content:
                try:
                    verify(kind, content[name], content.get(f"{name}.sig", ""), [key.public])
                except InvalidPolicy:
                    return False
                return True
        return False

    return accept


async def group(rollout: Rollout) -> dict[str, Any] | None:
    return await config_map(rollout.plane, rollout.namespace, "otaflux-group-lab")


async def apply_group(rollout: Rollout) -> None:
    manifest = """
    {"apiVersion": "otaflux.io/v1alpha1", "kind": "DeviceGroup", "metadata": {"name": "lab"},
     "spec": {"names": ["lab-1"], "labels": {"ring": "canary"}}}
    """
    await rollout.kubectl("apply", "-f", "-", input=manifest)


@asynccontextmanager
async def told_by(rollout: Rollout, server: UpdateServer) -> AsyncIterator[None]:
    async with (
        served(rollout.plane, server) as url,
        operating(rollout.plane, rollout.namespace, server_url=url),
    ):
        yield


async def test_a_key_is_made_once_and_servers_get_its_public_half(
    rollout: Rollout, firmware: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logs:
        async with operating(rollout.plane, rollout.namespace):
            made = await data(rollout, SECRET)
            ((name, text),) = made.items()
            key = SigningKey.loads(text)
            assert name.endswith(".key")
            await apply_group(rollout)
            await rollout.apply(firmware, "1.0.0")
            await rollout.completes("1.0.0")
            await eventually(rollout.config_map, signed_with(key))
            await eventually(lambda: group(rollout), signed_with(key))
            found = await entries(rollout)
            assert found == {entry_key(key.public.id): key.public.dumps().encode()}
            # Whatever somebody does to what servers get is undone.
            path = f"/api/v1/namespaces/{rollout.namespace}/secrets/otaflux-pull-credentials"
            await rollout.plane.request("DELETE", path)
            await eventually(lambda: entries(rollout), lambda there: there == found)
        async with operating(rollout.plane, rollout.namespace):
            assert await data(rollout, SECRET) == made
    lines = text.decode().splitlines()[1:-1]
    assert lines
    assert not any(line in str(logs) + caplog.text for line in lines)


async def test_a_key_that_is_given_signs(rollout: Rollout, firmware: str) -> None:
    await give(rollout, a=KEYS[0].dumps())
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await eventually(rollout.config_map, signed_with(KEYS[0]))


async def test_keys_are_changed_with_an_overlap(rollout: Rollout, firmware: str) -> None:
    """The new one signs once servers know it; the old one is then of no use any more."""
    old, new, _ = KEYS
    await give(rollout, a=old.dumps())
    server = UpdateServer(rollout.plane)
    server.says = {"policy_keys": (old.public.id,)}

    async def questions() -> int:
        return server.questions

    async with told_by(rollout, server):
        await apply_group(rollout)
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        await give(rollout, a=old.dumps(), b=new.dumps())
        await eventually(lambda: entries(rollout), lambda there: len(there) == 2)
        asked = server.questions
        await rollout.apply(firmware, "1.0.0", priority=1)
        await eventually(rollout.policy, lambda found: found is not None and found.priority == 1)
        await eventually(questions, lambda now: now > asked)
        assert signed_with(old)(await rollout.config_map())
        server.says = {"policy_keys": (old.public.id, new.public.id)}
        await eventually(rollout.config_map, signed_with(new))
        await eventually(lambda: group(rollout), signed_with(new))
        await give(rollout, b=new.dumps())
        await eventually(lambda: entries(rollout), lambda there: len(there) == 1)
        assert signed_with(new)(await rollout.config_map())
    assert "PolicyTampered" not in await rollout.reasons()


async def test_a_restart_amid_a_change_of_keys_signs_with_the_old_one(
    rollout: Rollout, firmware: str
) -> None:
    old, new, _ = KEYS
    await give(rollout, a=old.dumps())
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
    await give(rollout, a=old.dumps(), b=new.dumps())
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0", priority=1)
        await eventually(rollout.policy, lambda found: found is not None and found.priority == 1)
        assert signed_with(old)(await rollout.config_map())


@pytest.mark.parametrize(
    "secret", [{}, {"a": b"garbage"}, {"a": KEYS[0].dumps(), "b": KEYS[1].public.dumps().encode()}]
)
async def test_a_malformed_secret_stalls_and_what_is_published_stays(
    rollout: Rollout, firmware: str, secret: dict[str, bytes]
) -> None:
    await give(rollout, a=KEYS[0].dumps())
    async with operating(rollout.plane, rollout.namespace):
        await apply_group(rollout)
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        published = await group(rollout)
        given = await entries(rollout)
        await give(rollout, **secret)
        await rollout.has("Stalled", "True/SigningKeyUnusable")
        await rollout.has("Ready", "False/SigningKeyUnusable")
        # What somebody damages now cannot be mended, and keeps nobody from being told.
        await tamper(rollout, metadata={"labels": None})
        before = await rollout.config_map()
        await rollout.apply(firmware, "1.0.0", state="Paused")
        await eventually(
            rollout.get,
            lambda found: found["status"]["observedGeneration"] == found["metadata"]["generation"],
        )
        await rollout.has("Stalled", "True/SigningKeyUnusable")
        status = (await rollout.get())["status"]
        assert status["stableRelease"]["version"] == "1.0.0"
        assert await rollout.config_map() == before
    # Also for one that is started with it.
    async with operating(rollout.plane, rollout.namespace):
        await rollout.has("Stalled", "True/SigningKeyUnusable")
        assert await rollout.config_map() == before
        assert await group(rollout) == published
        assert await entries(rollout) == given
        assert (await rollout.get())["status"]["policy"] == status["policy"]
        await give(rollout, a=KEYS[0].dumps())
        await eventually(
            rollout.policy, lambda found: found is not None and found.state == "Paused"
        )
        await rollout.has("Stalled", "False/NotStalled")


async def test_nothing_is_taken_over_from_what_is_not_signed(
    rollout: Rollout, firmware: str
) -> None:
    """A lost status is rebuilt from the policy: not from one that anybody may have written."""
    await give(rollout, a=KEYS[0].dumps())
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        policy = await rollout.policy()
    assert policy is not None
    forged = seal(policy.model_copy(update={"run": 99, "epoch": 2**52, "tripped": True}))
    body = signed_config_map(forged, key=KEYS[1])
    await tamper(rollout, data=body["data"])
    async with operating(rollout.plane, rollout.namespace):
        found = await eventually(rollout.config_map, signed_with(KEYS[0]))
        assert found is not None
        text = found["data"]["policy.json"]
        written = loads_policy(text, namespace=rollout.namespace, name="thermostat")
        assert (written.run, written.tripped) == (policy.run, False)
        assert written.epoch < 2**40
        await rollout.has_event("PolicyTampered")


async def test_one_that_lost_its_labels_and_owners_is_withdrawn_with_its_rollout(
    rollout: Rollout, firmware: str
) -> None:
    """While no operator ran: else servers would go on by it."""
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
    await tamper(rollout, metadata=NOBODYS)
    await rollout.kubectl("create", "configmap", "otaflux-policy-mine", "--from-literal=a=b")
    await rollout.kubectl("delete", "fwr", "thermostat")
    async with operating(rollout.plane, rollout.namespace):
        await rollout.is_withdrawn()
    mine = await config_map(rollout.plane, rollout.namespace, "otaflux-policy-mine")
    assert mine is not None, "it merely has such a name"


async def test_what_stands_in_the_place_of_one_is_withdrawn_with_its_rollout(
    rollout: Rollout, firmware: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody writes over it again and again, as here just before the operator looks."""
    async with operating(rollout.plane, rollout.namespace) as running:
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        assert running.operator is not None
        publications = running.operator._ports.publications
        withdraw = publications.withdraw

        async def attacked(key: Key) -> bool:
            await tamper(rollout, metadata=NOBODYS, data=None)
            monkeypatch.undo()
            return await withdraw(key)

        monkeypatch.setattr(publications, "withdraw", attacked)
        await rollout.kubectl("delete", "fwr", "thermostat")
        await rollout.is_withdrawn()


async def test_an_old_one_put_back_is_replaced_also_if_it_says_the_same(
    rollout: Rollout, firmware: str
) -> None:
    """Servers refuse it, so that they would not see what comes from then on as newer."""
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        old = await rollout.config_map()
        assert old is not None
        for state in ("Paused", "Active"):
            await rollout.apply(firmware, "1.0.0", state=state)
            await eventually(rollout.policy, in_state(state))
        before = await rollout.policy()
        assert before is not None
        await tamper(rollout, data=old["data"])
        await eventually(
            rollout.policy, lambda found: found is not None and found.sequence > before.sequence
        )
        assert in_state("Active")(await rollout.policy())


async def test_servers_that_know_a_later_epoch_are_answered_with_one_above(
    rollout: Rollout, firmware: str
) -> None:
    """As after a reinstallation, or a clock that was years ahead."""
    server = UpdateServer(rollout.plane)
    async with told_by(rollout, server):
        await apply_group(rollout)
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        server.says = {
            "epoch": 5_000_000_000,
            "revision": "sha256:" + "0" * 64,
            "rejected": "older",
            "rejection": RejectionReason.REPLAYED,
        }
        await eventually(
            rollout.policy, lambda found: found is not None and found.epoch == 5_000_000_001
        )
        server.says = {"epoch": 5_000_000_001}
        await rollout.has("PolicyServed", "True/Served")
        await eventually(lambda: group(rollout), lambda found: '"epoch":5000000001' in str(found))
