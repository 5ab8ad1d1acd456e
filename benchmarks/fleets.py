"""The fleet that update servers are measured with: devices, groups, releases, rollouts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from random import Random

from otaflux_oci import ImageLayout, Repository
from otaflux_policy.canonical import dumps, seal
from otaflux_policy.contract import Artifact, Policy, Release, Ring
from otaflux_policy.groups import Group
from otaflux_policy.selectors import DeviceSelector
from otaflux_server.policies import PolicyStore

NAMESPACE = "home"
STABLE, TARGET = "1.3.2", "1.4.0"
_CREATED = datetime(2026, 1, 1, tzinfo=UTC)
_GROUP_SIZE = 10_000
"""As many names as one DeviceGroup may have."""


class Change(StrEnum):
    """What becomes of the policies at each change: something, and then back."""

    WIDEN = "widen"
    """The second ring takes three tenths instead of one."""

    OPEN = "open"
    """All rings open; and close for a new run."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """`devices` spread evenly over `rollouts`; images of `size` bytes, two for each rollout.

    A rollout has three rings, canaries by label, a tenth, the rest; the last one is closed, so
    that its devices get the stable release. Every device gets an answer with a release.
    """

    devices: int = 10_000
    rollouts: int = 20
    size: int = 1024 * 1024

    @property
    def device_ids(self) -> list[str]:
        """Ids as factories give them: MAC addresses."""
        return [f"24:0a:c4:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}" for n in self._numbers]

    def image(self, rollout: int, version: str) -> bytes:
        """The firmware of a release, different for each rollout and version."""
        return Random(f"{rollout} {version}").randbytes(self.size)

    def digest(self, rollout: int) -> str:
        """The hexadecimal digest of what a rollout's canaries are offered.

        The device of the same number as the rollout is one of them.
        """
        return sha256(self.image(rollout, TARGET)).hexdigest()

    def groups(self) -> Iterator[Group]:
        """Groups of each rollout's devices, one of all canaries, and three by glob."""
        ids = self.device_ids
        for rollout in range(self.rollouts):
            names = ids[rollout :: self.rollouts]
            for part, start in enumerate(range(0, len(names), _GROUP_SIZE)):
                some = tuple(names[start : start + _GROUP_SIZE])
                yield self._group(f"product-{rollout:02}-{part}", some, product=f"p{rollout:02}")
        canaries = tuple(ids[n] for n in self._numbers if self._is_canary(n))
        yield self._group("canaries", canaries, ring="canary")
        for site, glob in (("berlin", "24:0a:c4:00:0*"), ("oslo", "*:1?:*"), ("lab", "*f")):
            yield self._group(f"site-{site}", (glob,), site=site)

    def policies(self, layout: Path) -> Iterator[Policy]:
        """The policies of all rollouts; their images are put into the OCI layout on the way."""
        for rollout in range(self.rollouts):
            yield seal(
                Policy(
                    namespace=NAMESPACE,
                    name=f"product-{rollout:02}",
                    created_at=_CREATED + timedelta(days=rollout),
                    device_selector=DeviceSelector(match_labels={"product": f"p{rollout:02}"}),
                    run=2,
                    target=self._release(layout, rollout, TARGET),
                    stable=self._release(layout, rollout, STABLE),
                    rings=(
                        Ring(
                            name="canary",
                            selector=DeviceSelector(match_labels={"ring": "canary"}),
                            open=True,
                        ),
                        Ring(name="early", percent=10, open=True),
                        Ring(name="fleet"),
                    ),
                    device_timeout=86_400,
                    active_within=604_800,
                )
            )

    @property
    def _numbers(self) -> range:
        return range(self.devices)

    def _is_canary(self, device: int) -> bool:
        return device // self.rollouts % 100 == 0

    def _group(self, name: str, names: tuple[str, ...], **labels: str) -> Group:
        return seal(Group(namespace=NAMESPACE, name=name, names=names, labels=labels))

    def _release(self, layout: Path, rollout: int, version: str) -> Release:
        repository = Repository.parse(f"registry.example.com/firmware/product-{rollout:02}")
        file = layout.parent / "firmware.bin"
        file.write_bytes(self.image(rollout, version))
        manifest = ImageLayout(layout).add(repository, file, version=version)
        layer = manifest.layers[0]
        artifact = Artifact(
            digest=layer.digest,
            size=layer.size,
            media_type=layer.media_type,
            repository=str(repository),
        )
        return Release(version=version, digest=manifest.digest, artifacts=(artifact,))


class Publication:
    """The fleet's groups and policies in a server's store, as a policy source would put them."""

    def __init__(self, fleet: Fleet, store: PolicyStore, layout: Path, change: Change) -> None:
        self._fleet = fleet
        self._store = store
        self._layout = layout
        self._change = change
        self._changes = 0
        self._policies: list[Policy] = []

    async def publish(self) -> None:
        """Puts them there for the first time."""
        groups = {(NAMESPACE, group.name): dumps(group) for group in self._fleet.groups()}
        self._policies = await asyncio.to_thread(lambda: list(self._fleet.policies(self._layout)))
        self._store.replace({(NAMESPACE, name): text for name, text in self._texts()}, groups)
        self._store.connected()

    def change(self) -> None:
        """Changes every policy."""
        self._changes += 1
        for name, text in self._texts():
            self._store.apply_policy(NAMESPACE, name, text)

    def _texts(self) -> Iterator[tuple[str, str]]:
        for policy in self._policies:
            yield policy.name, dumps(changed(policy, self._change, self._changes))


def changed(policy: Policy, change: Change, changes: int) -> Policy:
    """The policy after so many changes of this kind."""
    on = bool(changes % 2)
    canary, early, fleet = policy.rings
    run = policy.run
    if change is Change.WIDEN:
        early = early.model_copy(update={"percent": 30 if on else 10})
    else:
        canary, early, fleet = (ring.model_copy(update={"open": on}) for ring in policy.rings)
        run += changes // 2
    update = {"sequence": changes, "run": run, "rings": (canary, early, fleet)}
    return seal(policy.model_copy(update=update))


def layout_source(layout: Path) -> contextlib.nullcontext[ImageLayout]:
    """The layout as the server wants a source of artifacts."""
    return contextlib.nullcontext(ImageLayout(layout))
