"""What is drawn: the fleet, its courses, rings, spans and windows."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.operator.worlds import AT_ONCE

MINUTE, HOUR, DAY = 60, 3600, 86400
TAGS = ("1.0.0", "1.1.0", "1.2.0", "0.9.0", "nightly")


@dataclass
class Simulated:
    """A device as it really is; `reports`: it says which version it runs."""

    version: str
    reports: bool = True
    model: str = "thermostat"


FLEET = {
    "lab-1": Simulated("1.0.0"),
    "lab-2": Simulated("1.0.0", reports=False),
    "kitchen-1": Simulated("1.0.0"),
    "kitchen-2": Simulated("0.9.0"),
    "hall-1": Simulated("1.0.0", reports=False),
    "hall-2": Simulated("2.5.0"),
    "attic-1": Simulated("garbage", model="other"),
}
NAMES = st.sampled_from(sorted(FLEET))

SELECTED: dict[str, dict[str, Any]] = {
    "canary": {"deviceSelector": {"matchLabels": {"ring": "canary"}}},
    "early": {"percent": 50},
    "late": {"percent": 80},
    "fleet": {},
}
LAYOUTS = st.sampled_from(
    (
        ("canary", "fleet"),
        ("canary", "early", "fleet"),
        ("early", "canary", "fleet"),
        ("canary", "early", "late", "fleet"),
        ("early", "late"),
        ("fleet",),
    )
)
FIELDS = st.fixed_dictionaries(
    {
        "success": st.sampled_from(
            (
                {"minUpdatedPercent": 100, "minDevices": 1},
                {"minUpdatedPercent": 50, "minDevices": 1},
                {"minUpdatedPercent": 60, "minDevices": 2},
                {"minUpdatedPercent": 50, "minDevices": 3},
                AT_ONCE["success"],
            )
        ),
        "failure": st.sampled_from(
            (
                {"maxPercent": 20, "minSample": 1, "action": "Pause"},
                {"maxPercent": 20, "minSample": 1, "action": "Rollback"},
                {"maxPercent": 40, "minSample": 2, "action": "Rollback"},
                {"maxPercent": 60, "minSample": 3, "action": "Pause"},
                {"maxPercent": 50, "minSample": 2, "action": "Pause"},
                {"maxPercent": 20, "minSample": 3, "action": "Pause"},
                {"maxPercent": 100, "minSample": 1, "action": "Pause"},
                {"maxPercent": 100, "minSample": 1, "action": "Rollback"},
            )
        ),
    },
    optional={
        "gate": st.sampled_from(("Automatic", "Approval")),
        "soak": st.sampled_from(("0s", "10m", "1h")),
        "deadline": st.sampled_from(("2h", "48h")),
        "maxConcurrent": st.sampled_from((1, 2)),
        "onEmpty": st.sampled_from(("Wait", "Skip")),
    },
)
RINGS = st.tuples(LAYOUTS, st.lists(FIELDS, min_size=4, max_size=4)).map(
    lambda drawn: [
        {"name": name, **SELECTED[name], **fields}
        for name, fields in zip(drawn[0], drawn[1], strict=False)
    ]
)
DEEDS = (
    "fails",
    "fails",
    "updates",
    "reverts",
    "vanishes",
    "only polls",
    "downloads again and again",
    "lies",
    "talks garbage",
    "leaves the installation open",
)
COURSES = st.sampled_from(
    (*DEEDS, "fetches late", "is pruned", "is flashed by hand", "changes groups")
)
SPANS = st.sampled_from((30, 6 * MINUTE, 11 * MINUTE, HOUR))
WINDOWS: tuple[list[dict[str, str]], ...] = (
    [],
    [],
    [{"schedule": "0 2 * * *", "duration": "4h", "timeZone": "Europe/Berlin"}],
    [{"schedule": "0 * * * *", "duration": "30m"}],
)
