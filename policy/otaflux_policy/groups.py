"""Device groups: where a device's labels come from, and a model for devices that report none."""

from collections.abc import Iterable, Mapping
from typing import Literal

from otaflux_policy.models import ContractModel
from otaflux_policy.selectors import glob_matches, is_glob

DEVICE_LABEL = "otaflux.io/device"


class Group(ContractModel):
    """A DeviceGroup as the operator publishes it (`group.json`).

    `(epoch, sequence)` grows with each write of one group.
    """

    schema_version: Literal[1] = 1
    revision: str = ""
    epoch: int = 0
    sequence: int = 0
    namespace: str
    name: str
    names: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    model: str | None = None


class Groups:
    """All groups of one namespace, indexed by the exact ids that they name.

    Where two groups give a device another value of one label, the first by name wins.
    """

    def __init__(self, groups: Iterable[Group] = ()) -> None:
        self._exact: dict[str, list[Group]] = {}
        self._globs: list[tuple[str, Group]] = []
        for group in sorted(groups, key=lambda group: group.name):
            for name in dict.fromkeys(group.names):
                if is_glob(name):
                    self._globs.append((name, group))
                else:
                    self._exact.setdefault(name, []).append(group)

    def of(self, device: str) -> list[Group]:
        """The groups that the device is in, by name."""
        found = {group.name: group for group in self._exact.get(device, ())}
        for glob, group in self._globs:
            if group.name not in found and glob_matches(glob, device):
                found[group.name] = group
        return [found[name] for name in sorted(found)]

    def names_exactly(self, device: str) -> bool:
        """Whether a group names the id itself, not by a glob."""
        return device in self._exact

    def labels(self, device: str) -> Mapping[str, str]:
        """The device's labels, its own `otaflux.io/device` among them."""
        labels: dict[str, str] = {DEVICE_LABEL: device}
        for group in self.of(device):
            for key, value in group.labels.items():
                labels.setdefault(key, value)
        return labels

    def model(self, device: str) -> str | None:
        """The model of the first group that gives one."""
        return next((group.model for group in self.of(device) if group.model), None)
