"""The story: a good release goes ring by ring on evidence, a bad one is stopped and taken back."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx

from otaflux_cli.demo.backdrops import FIRST, RINGS, SECOND, Backdrop, DemoFailed, ring_of
from otaflux_cli.demo.displays import Stage
from otaflux_cli.firmware.images import make_image
from otaflux_cli.simulation.devices import Behaviour, NativeTakes
from otaflux_cli.simulation.fleets import Fleet, FleetSettings

FACTORY = "1.2.0"
CANARIES = ("kitchen-1", "kitchen-2", *(f"lab-{number}" for number in range(1, 5)))
DEVICES = (
    *CANARIES,
    *(f"berlin-{number}" for number in range(1, 15)),
    *(f"home-{number}" for number in range(1, 31)),
)
HARMED = {"kitchen-2": Behaviour.REVERTS, "lab-4": Behaviour.FAILS}
_IMAGE_BYTES = 256 * 1024
_CEILING = 60.0
_LOOK = 0.1
_SETTINGS = FleetSettings(
    interval=0.4,
    reboot=0.25,
    slow=4,
    slow_download=1.0,
    breaks=4,
    version=FACTORY,
    harmful=frozenset({SECOND}),
    native_takes=NativeTakes.DIFFERENT,
)


async def tell(backdrop: Backdrop, stage: Stage, *, pause: float = 1.0) -> None:
    """Tells it; `pause` seconds between the two releases, for whoever watches.

    Raises:
        DemoFailed: something that must happen does not, or something that must not, does.
    """
    stage.scene.versions = (FACTORY, FIRST, SECOND)
    for version in (FIRST, SECOND):
        image = make_image(version, project="thermostat", size=_IMAGE_BYTES)
        stage.command(await backdrop.push(version, image))
    stage.command(await backdrop.apply())
    stage.say("The spans of the examples are made short: rings soak for 3 s here, not for hours.")
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        Fleet(backdrop.device_url, DEVICES, settings=_SETTINGS, behaviours=HARMED) as fleet,
    ):
        stage.scene.fleet = fleet
        stage.say(f"{len(DEVICES)} simulated devices poll, all on {FACTORY}.")
        await _good(backdrop, stage, client)
        await asyncio.sleep(pause)
        await _bad(backdrop, stage, client)


async def _good(backdrop: Backdrop, stage: Stage, client: httpx.AsyncClient) -> None:
    scene = stage.scene
    stage.say(
        f"{FIRST} goes out ring by ring: a ring opens once the devices of the one before report "
        "that they run it, and go on to while the ring soaks."
    )
    await _follow(backdrop, stage, lambda: _runs(stage, FIRST), f"{FIRST} is released")
    await _find_members(backdrop, stage, client)
    await _follow(
        backdrop,
        stage,
        lambda: (
            (scene.status.get("stableRelease") or {}).get("version") == FIRST
            and all(scene.all_run(ring, FIRST) for ring in RINGS)
        ),
        f"{FIRST} is stable and on every device",
    )
    stage.say(
        f"{FIRST} is the stable release: every ring is complete, {len(DEVICES)} devices run it.",
        "green",
    )


async def _bad(backdrop: Backdrop, stage: Stage, client: httpx.AsyncClient) -> None:
    scene = stage.scene
    stage.say(
        f"{SECOND} is a bad release: one canary falls back after it, another cannot flash it."
    )
    stage.command(await backdrop.release(SECOND))
    await _follow(backdrop, stage, lambda: _runs(stage, SECOND), f"{SECOND} is released")
    # Another release draws other devices into a percentage.
    await _find_members(backdrop, stage, client)
    await _follow(
        backdrop,
        stage,
        lambda: scene.status.get("rollback") is not None,
        f"the breaker stops {SECOND}",
    )
    stage.say(f"The breaker opened. {_why(scene.status)}", "red")
    stage.say(f"Devices that have {SECOND} are offered {FIRST} again, at once and by themselves.")
    await _follow(
        backdrop,
        stage,
        lambda: (
            scene.status.get("phase") == "RolledBack"
            and all(scene.all_run(ring, FIRST) for ring in RINGS)
        ),
        f"every device runs {FIRST} again",
    )
    stage.say(
        f"All {len(DEVICES)} devices run {FIRST} again. {SECOND} reached nobody but the "
        f"{len(CANARIES)} canaries, and is offered to nobody until a person says so.",
        "green",
    )


async def _find_members(backdrop: Backdrop, stage: Stage, client: httpx.AsyncClient) -> None:
    """Who is in which ring, once the server knows the group of the canaries too."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_CEILING):
            while True:
                stage.scene.members = await _members(backdrop, client)
                if set(stage.scene.members["canary"]) == set(CANARIES):
                    return
                await asyncio.sleep(_LOOK)
    raise DemoFailed("the server does not put the canaries of the DeviceGroup into their ring")


async def _members(backdrop: Backdrop, client: httpx.AsyncClient) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {ring: [] for ring in RINGS}
    for device in DEVICES:
        ring = await ring_of(client, backdrop, device)
        if ring is None:
            raise DemoFailed(f"the server knows no ring for {device}")
        members[ring].append(device)
    return members


def _why(status: Mapping[str, Any]) -> str:
    """What the status says of the run that failed, else of what is being done about it."""
    for run in status.get("history", ()):
        if run["version"] == SECOND and run.get("message"):
            return str(run["message"])
    return str(status.get("message", ""))


def _runs(stage: Stage, version: str) -> bool:
    return (stage.scene.status.get("release") or {}).get("version") == version


async def _follow(backdrop: Backdrop, stage: Stage, reached: Callable[[], bool], what: str) -> None:
    """Reads the rollout until `reached`. Raises DemoFailed after a minute."""
    fleet = stage.scene.fleet
    with suppress(TimeoutError):
        async with asyncio.timeout(_CEILING):
            while True:
                backdrop.check()
                if fleet is not None:
                    fleet.check()
                stage.scene.rollout = await backdrop.rollout()
                stage.tell_rings()
                _check_nobody_outside(stage)
                if reached():
                    return
                await asyncio.sleep(_LOOK)
    status = stage.scene.status
    raise DemoFailed(
        f"after {_CEILING:.0f} s it is still not so that {what}.\n"
        f"The rollout: {status.get('phase')}: {status.get('message')}\n"
        f"The devices: {fleet.last_error if fleet else ''}"
    )


def _check_nobody_outside(stage: Stage) -> None:
    """Raises DemoFailed where a device that is no canary runs the bad release."""
    fleet = stage.scene.fleet
    for device in fleet.devices if fleet is not None else ():
        if device.version == SECOND and device.id not in CANARIES:
            raise DemoFailed(f"{device.id} runs {SECOND} although it is no canary")
