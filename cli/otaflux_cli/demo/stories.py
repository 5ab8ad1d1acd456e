"""The story: a first version becomes stable, then a second one goes ring by ring."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import httpx

from otaflux_cli.demo.backdrops import FIRST, RINGS, SECOND, Backdrop, DemoFailed, ring_of
from otaflux_cli.demo.displays import Stage
from otaflux_cli.firmware.images import make_image
from otaflux_cli.simulation.fleets import Fleet, FleetSettings

FACTORY = "1.2.0"
DEVICES = (
    "kitchen-1",
    "kitchen-2",
    *(f"lab-{number}" for number in range(1, 5)),
    *(f"berlin-{number}" for number in range(1, 15)),
    *(f"home-{number}" for number in range(1, 31)),
)
_IMAGE_BYTES = 256 * 1024
_CEILING = 60.0
_LOOK = 0.1
_SETTINGS = FleetSettings(
    interval=0.4, reboot=0.25, slow=4, slow_download=1.0, breaks=4, version=FACTORY
)


async def tell(backdrop: Backdrop, stage: Stage, *, pause: float = 1.0) -> None:
    """Tells it; `pause` seconds before each approval, for whoever watches.

    Raises:
        DemoFailed: something that must happen does not, or something that must not, does.
    """
    stage.scene.versions = (FACTORY, FIRST, SECOND)
    for version in (FIRST, SECOND):
        image = make_image(version, project="thermostat", size=_IMAGE_BYTES)
        stage.command(await backdrop.push(version, image))
    stage.command(await backdrop.apply())
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        Fleet(backdrop.device_url, DEVICES, settings=_SETTINGS) as fleet,
    ):
        stage.scene.fleet = fleet
        stage.say(f"{len(DEVICES)} simulated devices poll, all on {FACTORY}")
        await _follow(backdrop, stage, lambda: _runs(stage, FIRST), f"{FIRST} is released")
        await _find_members(backdrop, stage, client)
        await _becomes_stable(backdrop, stage, FIRST)
        stage.say(f"{FIRST} is the stable release: every ring completed", "green")
        stage.command(await backdrop.release(SECOND))
        for ring in RINGS:
            await _open(backdrop, stage, client, ring, pause)
        await _becomes_stable(backdrop, stage, SECOND)
        stage.say(f"{SECOND} is the stable release: {len(DEVICES)} devices run it", "green")


async def _becomes_stable(backdrop: Backdrop, stage: Stage, version: str) -> None:
    scene = stage.scene
    await _follow(
        backdrop,
        stage,
        lambda: (
            (scene.status.get("stableRelease") or {}).get("version") == version
            and all(scene.all_run(ring, version) for ring in RINGS)
        ),
        f"{version} is stable and on every device",
    )


async def _open(
    backdrop: Backdrop, stage: Stage, client: httpx.AsyncClient, ring: str, pause: float
) -> None:
    scene = stage.scene
    await _follow(
        backdrop,
        stage,
        lambda: _runs(stage, SECOND) and scene.ring_phase(ring) == "AwaitingApproval",
        f"ring {ring} awaits approval",
    )
    if ring == RINGS[0]:
        # Another release draws other devices into a percentage.
        await _find_members(backdrop, stage, client)
    stage.say(f"ring {ring}: {scene.status.get('message', 'awaits approval')}", "magenta")
    await asyncio.sleep(pause)
    for later in RINGS[RINGS.index(ring) :]:
        if scene.counts(later)[SECOND]:
            raise DemoFailed(f"a device of ring {later} runs {SECOND} although it is not open")
    stage.command(await backdrop.approve(ring, SECOND))
    await _follow(
        backdrop,
        stage,
        lambda: scene.all_run(ring, SECOND),
        f"every device of ring {ring} runs {SECOND}",
    )


async def _find_members(backdrop: Backdrop, stage: Stage, client: httpx.AsyncClient) -> None:
    members: dict[str, list[str]] = {ring: [] for ring in RINGS}
    for device in DEVICES:
        ring = await ring_of(client, backdrop.internal_url, device)
        if ring is None:
            raise DemoFailed(f"the server knows no ring for {device}")
        members[ring].append(device)
    stage.scene.members = members


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
                if reached():
                    return
                await asyncio.sleep(_LOOK)
    status = stage.scene.status
    raise DemoFailed(
        f"after {_CEILING:.0f} s it is still not so that {what}.\n"
        f"The rollout: {status.get('phase')}: {status.get('message')}\n"
        f"The devices: {fleet.last_error if fleet else ''}"
    )
