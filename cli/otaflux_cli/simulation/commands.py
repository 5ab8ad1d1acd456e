"""`otaflux simulate`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from otaflux_cli.errors import WRONG_USAGE, UserError
from otaflux_cli.outputs import Output, OutputOption, console, print_json, remark

if TYPE_CHECKING:
    from otaflux_cli.simulation.devices import NativeTakes
    from otaflux_cli.simulation.fleets import Fleet, ProtocolMix

MANY = 10_000


def _percent(text: str | float) -> float:
    """Also of a default, which is a number."""
    try:
        share = float(str(text).strip().removesuffix("%"))
    except ValueError:
        share = -1.0
    if not 0 <= share <= 100:
        raise typer.BadParameter(f"{text!r} is no share: write 0 to 100, such as 30%")
    return share


class _PercentOption(TypedDict):
    parser: Callable[[str | float], float]
    metavar: str


_PERCENT: _PercentOption = {"parser": _percent, "metavar": "PERCENT"}


def simulate(
    server: Annotated[str, typer.Option(help="The update server, http://host:port.")],
    devices: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many devices.")] = 10,
    namespace: Annotated[
        str | None, typer.Option(help="Their namespace (/t/NAMESPACE); the server's default else.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="native, json or mixed (half and half).")] = "mixed",
    version: Annotated[str, typer.Option(help="The version that they run at first.")] = "1.0.0",
    model: Annotated[str | None, typer.Option(help="The model that they report.")] = None,
    prefix: Annotated[str, typer.Option(help="Device ids are PREFIX-00001 and so on.")] = "sim",
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between polls.")] = 5.0,
    jitter: Annotated[
        float, typer.Option(help="By how much the interval may differ.", **_PERCENT)
    ] = 20.0,
    failures: Annotated[
        float, typer.Option(help="Devices that report that they cannot install it.", **_PERCENT)
    ] = 0.0,
    failure_code: Annotated[str, typer.Option(help="The code that they report.")] = "flash-write",
    reverts: Annotated[
        float,
        typer.Option(help="Devices that boot it and come back with the old version.", **_PERCENT),
    ] = 0.0,
    bricks: Annotated[
        float,
        typer.Option(help="Devices that boot it and are never heard of again.", **_PERCENT),
    ] = 0.0,
    recovery: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds until a bricked device is back, with the version of before."
        ),
    ] = None,
    harmful: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VERSION",
            help="Only at this version devices fail, revert or brick (may be given again); "
            "without: at every one.",
        ),
    ] = None,
    slow: Annotated[float, typer.Option(help="Devices that read slowly.", **_PERCENT)] = 0.0,
    breaks: Annotated[
        float, typer.Option(help="Devices whose connection breaks once per download.", **_PERCENT)
    ] = 0.0,
    seldom: Annotated[
        float, typer.Option(help="Devices that poll ten times less often.", **_PERCENT)
    ] = 0.0,
    native_takes: Annotated[
        str,
        typer.Option(
            help="To what native devices update: newer (builds of 2026), or different (builds of "
            "2025; only these can be rolled back)."
        ),
    ] = "newer",
    native_reports_version: Annotated[
        bool,
        typer.Option(
            "--native-reports-version",
            help="Native devices send version and model, as no old client does.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Draws which devices fail, revert and so on.")] = 1,
    duration: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after that many seconds.")
    ] = None,
    until_version: Annotated[
        str | None,
        typer.Option(help="Stop when every device that can runs it; exit 1 if that never happens."),
    ] = None,
    many: Annotated[
        bool, typer.Option("--many", help=f"Yes, really more than {MANY} devices.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Simulate devices: they poll, download, verify, "reboot" and report, over real sockets.

    [bold]Examples[/bold]

        otaflux simulate --server http://127.0.0.1:8080 --devices 50

        otaflux simulate --server http://127.0.0.1:8080 --devices 2000 --failures 1% --slow 5%

        otaflux simulate --server http://127.0.0.1:8080 --bricks 30% --harmful 1.5.0

        otaflux simulate --server http://127.0.0.1:8080 --protocol native --native-takes different

        otaflux simulate --server http://127.0.0.1:8080 --until-version 1.4.0 --duration 60 -o json

    Which devices fail, revert or brick is drawn by --seed and their ids; the shares are exact.
    Without --duration and --until-version it runs until Ctrl-C.
    """
    import asyncio

    import uvloop

    from otaflux_cli.simulation.displays import summary_data, summary_table
    from otaflux_cli.simulation.exchanges import InvalidServerUrl
    from otaflux_cli.simulation.fleets import Fleet, FleetSettings, device_ids

    if devices > MANY and not many:
        raise UserError(
            f"{devices} devices are a load test: add --many if the server is yours",
            exit_code=WRONG_USAGE,
        )
    try:
        fleet = Fleet(
            server,
            device_ids(devices, prefix),
            _protocol(protocol),
            FleetSettings(
                interval=interval,
                jitter=jitter,
                failures=failures,
                reverts=reverts,
                bricks=bricks,
                slow=slow,
                breaks=breaks,
                seldom=seldom,
                recovery=recovery,
                failure_code=failure_code,
                harmful=frozenset(harmful or ()),
                version=version,
                model=model,
                native_reports_version=native_reports_version,
                native_takes=_native_takes(native_takes),
                seed=seed,
            ),
            namespace=namespace,
        )
    except (InvalidServerUrl, ValueError) as error:
        raise UserError(str(error), exit_code=WRONG_USAGE) from None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        reached = runner.run(_run(fleet, server, duration, until_version))
    summary = fleet.summary()
    if output is Output.JSON:
        print_json(summary_data(summary))
    else:
        console().print(summary_table(summary, f"{devices} devices at {server}"))
    if fleet.last_error:
        remark(f"Last error: {fleet.last_error}")
    if summary.unreachable == summary.devices:
        raise UserError(
            f"No device reached {server}.", hint="Is the server running, and the port its own?"
        )
    if not reached:
        raise UserError(f"Not every device runs {until_version}.")


async def _run(
    fleet: "Fleet", server: str, duration: float | None, until_version: str | None
) -> bool:
    import asyncio
    import signal

    from otaflux_cli.simulation.displays import show

    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        fleet.wake()

    def done(fleet: "Fleet") -> bool:
        return stopped or (until_version is not None and fleet.all_run(until_version))

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    display = asyncio.create_task(show(fleet, console(stderr=True), f"Devices at {server}"))
    try:
        async with fleet:
            await fleet.wait_until(done, duration)
    finally:
        display.cancel()
        await asyncio.gather(display, return_exceptions=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return stopped or until_version is None or fleet.all_run(until_version)


def _protocol(text: str) -> "ProtocolMix":
    from otaflux_cli.simulation.fleets import ProtocolMix

    try:
        return ProtocolMix(text)
    except ValueError:
        raise UserError(
            f"--protocol {text!r} is unknown: native, json or mixed", exit_code=WRONG_USAGE
        ) from None


def _native_takes(text: str) -> "NativeTakes":
    from otaflux_cli.simulation.devices import NativeTakes

    try:
        return NativeTakes(text)
    except ValueError:
        raise UserError(
            f"--native-takes {text!r} is unknown: newer or different", exit_code=WRONG_USAGE
        ) from None
