"""Where the keys of policies come from: the one Secret, or files."""

import base64
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_policy import signing
from otaflux_policy.signing import SigningKey
from otaflux_server import kubernetes
from otaflux_server.kubernetes import KubernetesSource
from otaflux_server.metrics import Metrics
from otaflux_server.policies import PolicyStore
from tests.server.fleets import policy, release, settings, until
from tests.server.signatures import KEY, OTHER_KEY, config_map, public_file
from tests.server.test_kubernetes import CONTENT, apply, gets, serving, version


def keys_secret(namespace: str, *keys: SigningKey) -> dict[str, Any]:
    """The Secret of pull credentials, with public keys in it."""
    data = {
        entry: base64.b64encode(text.encode()).decode()
        for entry, text in (
            *((signing.entry_key(key.public.id), key.public.dumps()) for key in keys),
            ("policy-key-garbage.pub", "x"),
            (signing.entry_key("0" * 16), "x"),
        )
    }
    metadata = {"name": "otaflux-pull-credentials", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


async def test_keys_come_through_the_one_secret_also_after_the_policies(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    target = release("1.4.0", CONTENT)
    good = policy(namespace=namespace, target=target, sequence=1)
    later = policy(namespace=namespace, target=target, sequence=2, state="Paused")
    await apply(control_plane, config_map(good))
    async with serving(control_plane, namespace, tmp_path, policy_keys=None) as server:
        await until(lambda: bool(server.policies.rejected(namespace, "thermostat")))
        assert (await version(server)).startswith("Error: no update (Hold)")
        assert server.served(namespace, "thermostat").rejection == "NoKeys"
        await apply(control_plane, keys_secret(namespace, KEY))
        await gets(server, "1.4.0")
        assert server.served(namespace, "thermostat").policy_keys == (KEY.public.id,)
        # Replaced: what it signed before stays, what it signs now is not used.
        await apply(control_plane, keys_secret(namespace, OTHER_KEY))
        await until(lambda: server.policies.key_ids == (OTHER_KEY.public.id,))
        await apply(control_plane, config_map(later))
        await until(lambda: server.served(namespace, "thermostat").rejection == "UnknownKey")
        assert (await version(server)).startswith("1.4.0")
        await apply(control_plane, config_map(later, key=OTHER_KEY))
        await gets(server, "Error: no update (Paused)")
        assert server.served(namespace, "thermostat").rejection is None
    # Known again at once after a restart, whatever comes first then.
    async with serving(control_plane, namespace, tmp_path, policy_keys=None) as server:
        assert server.policies.key_ids == (OTHER_KEY.public.id,)


async def test_keys_in_files_count_alone_and_are_read_again(
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kubernetes, "_RETRY_SECONDS", 0.05)
    folder = public_file(tmp_path / "files", KEY)
    (folder / "broken.pub").write_text("x")
    await apply(control_plane, keys_secret(namespace, OTHER_KEY))
    item = policy(namespace=namespace, target=release("1.4.0", CONTENT))
    await apply(control_plane, config_map(item, key=OTHER_KEY))
    async with serving(control_plane, namespace, tmp_path, policy_keys=folder) as server:
        await until(lambda: server.served(namespace, "thermostat").rejection == "UnknownKey")
        assert server.policies.key_ids == (KEY.public.id,)
        public_file(folder, OTHER_KEY)
        await gets(server, "1.4.0")
        for file in folder.iterdir():
            file.unlink()
        await until(lambda: server.policies.key_ids == ())
        assert (await version(server)).startswith("1.4.0")


async def test_a_store_of_unsigned_policies_takes_none_from_a_cluster(
    control_plane: ControlPlane,
) -> None:
    options = settings(Path("unused"), kubeconfig=control_plane.kubeconfig)
    with pytest.raises(ValueError, match="not signed"):
        await KubernetesSource(options).run(PolicyStore(Metrics()))
