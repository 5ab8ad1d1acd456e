"""Whoever may write FirmwareRollouts in one namespace reaches no device of another."""

from dataclasses import replace
from pathlib import Path

import pytest

from otaflux_server.policies import PolicyStore
from otaflux_server.rules import Rules
from tests.server.fleets import NAMESPACE, group, policy, release, serving, settings

BOTH = pytest.mark.parametrize("mitigated", [True, False])
OTHER = "office"


@BOTH
@pytest.mark.parametrize("selector", [{}, {"names": ["kitchen-1"]}, {"matchLabels": {"a": "b"}}])
def test_a_rollout_that_selects_the_devices_of_another_namespace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    selector: dict[str, object],
    mitigated: bool,
) -> None:
    """Also by a group of its own namespace that names them.

    There are two mitigations, and both are taken away: the rules of a namespace are its own
    policies and groups, and a policy says of which namespace it is, which is looked at once more.
    """
    rules = PolicyStore.rules

    def of_anybody(store: PolicyStore, namespace: str) -> Rules:
        found = rules(store, OTHER)
        taken = tuple(item.model_copy(update={"namespace": namespace}) for item in found.policies)
        return replace(found, policies=taken)

    if not mitigated:
        monkeypatch.setattr(PolicyStore, "rules", of_anybody)
    with serving(settings(tmp_path)) as served:
        served.apply(policy("own", device_selector={"names": ["lab-1"]}))
        served.apply(group("theirs", namespace=OTHER, names=("kitchen-1",), labels={"a": "b"}))
        target = release("1.4.0")
        served.publish(
            name="theirs", namespace=OTHER, device_selector=selector, target=target, priority=1000
        )
        assert served.get("/t/office/version?device=kitchen-1").status == 200
        answer = served.get(f"/t/{NAMESPACE}/version?device=kitchen-1")
        assert (answer.status == 404) is mitigated
        assert (served.get("/version?device=kitchen-1").status == 404) is mitigated
