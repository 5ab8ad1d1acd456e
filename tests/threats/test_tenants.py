"""Whoever may write FirmwareRollouts in one namespace reaches no device of another."""

from dataclasses import replace
from pathlib import Path

import pytest

from otaflux_policy.devices import Device
from otaflux_server import decisions
from otaflux_server.placing import Placement, place
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
    """Also by a group of its own namespace that names them."""
    with serving(settings(tmp_path)) as served:
        served.apply(policy("own", device_selector={"names": ["lab-1"]}))
        served.apply(group("theirs", namespace=OTHER, names=("kitchen-1",), labels={"a": "b"}))
        target = release("1.4.0")
        served.publish(
            name="theirs", namespace=OTHER, device_selector=selector, target=target, priority=1000
        )
        assert served.get(f"/t/{OTHER}/version?device=kitchen-1").status == 200
        assert served.get("/version?device=kitchen-1").status == 404
        policies = served.server.policies

        def of_anybody(device: Device, _: Rules) -> Placement:
            return place(replace(device, namespace=OTHER), policies.rules(OTHER))

        if not mitigated:
            monkeypatch.setattr(decisions, "place", of_anybody)
        victim = Device(NAMESPACE, "kitchen-1")
        made = served.call(lambda: served.server.decisions.afresh(victim, None).decision)
        assert made.release == (None if mitigated else target)
