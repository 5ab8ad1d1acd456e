"""Standalone from end to end: manifests and firmware in, `/version` and `/firmware` out."""

import asyncio
import json
import os
import signal
import sys
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from otaflux_cli.control_plane.processes import free_port
from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_cli.errors import UserError
from otaflux_cli.simulation.devices import DeviceState
from otaflux_cli.simulation.fleets import Fleet, FleetSettings, device_ids
from otaflux_cli.standalone.commands import _settings
from otaflux_cli.standalone.databases import Database
from otaflux_cli.standalone.running import AlreadyRunning, Standalone
from otaflux_operator.ports import Kind
from otaflux_server.settings import IdentityKind
from tests.cli.commands import otaflux, otaflux_async
from tests.cli.places import Place, image
from tests.cli.waiting import CEILING, until

MANIFEST = """
apiVersion: otaflux.io/v1alpha1
kind: FirmwareRollout
metadata: {name: firmware}
spec:
  artifact: {repository: localhost/firmware, tag: 1.3.2}
  deviceSelector: {}
  rings:
    - name: all
      success: {minUpdatedPercent: 0, minDevices: 0}
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def get(running: Standalone, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(running.device_url + path)


def expected(version: str) -> str:
    return f"{version}\n{zlib.crc32(image(version))}\n{len(image(version))}"


def serves(running: Standalone, version: str) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return (await get(running, "/version?device=kitchen-1")).text == expected(version)

    return reached


def stable(running: Standalone, version: str) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        (found,) = running.database.resources(Kind.ROLLOUT)
        return (found["status"].get("stableRelease") or {}).get("version") == version

    return reached


def test_devices_are_believed_unless_identity_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("127.0.0.1:0", "127.0.0.1:0", tmp_path)
    assert _settings(*where).identity.kind is IdentityKind.OPEN
    monkeypatch.setenv("OTAFLUX_IDENTITY__KIND", "Token")
    with pytest.raises(UserError, match=r"OTAFLUX_IDENTITY: .*needs tokens"):
        _settings(*where)
    monkeypatch.setenv("OTAFLUX_IDENTITY__TOKENS", str(tmp_path))
    assert _settings(*where).identity.kind is IdentityKind.TOKEN


async def test_a_manifest_decides_what_a_device_downloads(place: Place) -> None:
    place.add("1.3.2")
    place.file.write_text(MANIFEST)
    async with place.running() as running:
        await until(serves(running, "1.3.2"))
        assert (await get(running, "/firmware?device=kitchen-1")).content == image("1.3.2")

        place.add("1.4.0")
        place.file.write_text(MANIFEST.replace("1.3.2", "1.4.0"))
        await until(serves(running, "1.4.0"))
        assert (await get(running, "/firmware?device=kitchen-1")).content == image("1.4.0")

        place.file.unlink()

        async def gone() -> bool:
            return (await get(running, "/version?device=kitchen-1")).status_code == 404

        await until(gone)


async def test_an_invalid_file_is_refused_and_the_last_good_one_served(place: Place) -> None:
    place.add("1.3.2")
    place.file.write_text(MANIFEST)
    async with place.running() as running:
        await until(serves(running, "1.3.2"))
        place.file.write_text(MANIFEST.replace("tag: 1.3.2", "tag: [1.4.0]"))

        async def refused() -> bool:
            assert (await get(running, "/version?device=kitchen-1")).text == expected("1.3.2")
            return "firmware.yaml" in running.folder.problems

        await until(refused)
        assert "spec.artifact.tag" in running.folder.problems["firmware.yaml"][0]
    async with place.running() as running:
        assert (await get(running, "/version?device=kitchen-1")).text == expected("1.3.2")
        place.add("1.4.0")
        place.file.write_text(MANIFEST.replace("1.3.2", "1.4.0"))
        await until(serves(running, "1.4.0"))


async def test_a_restart_changes_no_answer(place: Place) -> None:
    place.add("1.3.2")
    place.file.write_text(MANIFEST)
    async with place.running() as running:
        await until(stable(running, "1.3.2"))
        (before,) = running.database.resources(Kind.ROLLOUT)
    async with place.running() as running:
        answer = await get(running, "/version?device=kitchen-1")
        assert answer.text == expected("1.3.2"), "from the first request on"
        await until(stable(running, "1.3.2"))
        (after,) = running.database.resources(Kind.ROLLOUT)
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["status"]["run"] == before["status"]["run"] == 1


async def test_a_missing_version_is_explained_and_taken_up_once_it_is_added(place: Place) -> None:
    place.file.write_text(MANIFEST)

    async def explained() -> bool:
        (found,) = running.database.resources(Kind.ROLLOUT)
        return "otaflux firmware add" in found["status"].get("message", "")

    async with place.running() as running:
        await until(explained)
        answer = await get(running, "/version?device=kitchen-1")
        assert answer.status_code == 404
        place.add("1.3.2")
        await until(serves(running, "1.3.2"))


async def test_the_layout_may_hold_what_belongs_to_a_registry(place: Place) -> None:
    place.add("1.3.2", "registry.example.com/thermostat")
    place.file.write_text(MANIFEST.replace("localhost/firmware", "registry.example.com/thermostat"))
    async with place.running() as running:
        await until(serves(running, "1.3.2"))


async def test_simulated_devices_of_both_protocols_run_the_release(place: Place) -> None:
    place.add("1.3.2")
    place.file.write_text(MANIFEST)
    quick = FleetSettings(interval=0.1, reboot=0.05, slow=20, slow_download=0.5, breaks=20)
    async with (
        place.running() as running,
        Fleet(running.device_url, device_ids(10), settings=quick) as fleet,
    ):
        assert await fleet.wait_until(lambda fleet: fleet.all_run("1.3.2"), CEILING)
        assert fleet.summary().by_state == {("1.3.2", DeviceState.UPDATED): 10}
        assert fleet.summary().unreachable == 0


async def test_a_private_registry_is_pulled_with_a_secret_among_the_manifests(
    place: Place, registry_program: Path, oras: Oras, capfd: pytest.CaptureFixture[str]
) -> None:
    password = "hunter2-not-to-be-seen"
    (place.folder / "app.bin").write_bytes(image("1.3.2"))
    async with Registry(registry_program, users={"robot": password}) as registry:
        await oras(
            *("push", "--plain-http", "--username", "robot", "--password", password),
            *(f"{registry.host}/thermostat:1.3.2", "app.bin:application/octet-stream"),
            cwd=place.folder,
        )
        place.file.write_text(
            MANIFEST.replace(
                "{repository: localhost/firmware, tag: 1.3.2}",
                f"{{repository: {registry.host}/thermostat, tag: 1.3.2, insecure: true, "
                "secretRef: {name: harbor}}",
            )
        )

        async def explained() -> bool:
            (found,) = running.database.resources(Kind.ROLLOUT)
            return "harbor" in found["status"].get("message", "")

        async with place.running() as running:
            await until(explained)
            auth = {"auths": {registry.host: {"username": "robot", "password": password}}}
            secret = {
                "kind": "Secret",
                "metadata": {"name": "harbor"},
                "stringData": {".dockerconfigjson": json.dumps(auth)},
            }
            (place.manifests / "secret.yaml").write_text(json.dumps(secret))
            await until(serves(running, "1.3.2"))
    told = "".join(capfd.readouterr())
    assert "in use now" in told, "the log is what is searched"
    for path in place.folder.rglob("*"):
        if path.is_file() and path.name != "secret.yaml":
            assert password.encode() not in path.read_bytes(), path
    assert password not in told


async def test_two_never_use_one_data_folder(place: Place) -> None:
    async with place.running():
        with pytest.raises(AlreadyRunning, match="stop it, or give another"):
            async with place.running():
                pass


async def test_the_command_serves_until_it_is_told_to_end(place: Place) -> None:
    """`--init`, `firmware add`, start, ask: the five lines of the README."""
    wrote = await otaflux_async("standalone", "--init", "--manifests", "m", cwd=place.folder)
    assert wrote.returncode == 0, wrote.stderr
    assert "otaflux standalone --manifests m" in wrote.stderr
    (place.folder / "app.bin").write_bytes(image("1.4.0"))
    added = await otaflux_async(
        "firmware", "add", "app.bin", "--version", "1.4.0", cwd=place.folder
    )
    assert added.returncode == 0, added.stderr
    port, internal = free_port(), free_port()
    elsewhere = place.folder / "elsewhere.db"
    with (place.folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "otaflux_cli.main", "standalone", "--manifests", "m"),
            *("--listen", f"127.0.0.1:{port}", "--internal-listen", f"127.0.0.1:{internal}"),
            cwd=place.folder,
            env={**os.environ, "OTAFLUX_EVIDENCE__DATABASE_URL": f"sqlite:///{elsewhere}"},
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def answered() -> bool:
                assert process.returncode is None, (place.folder / "log").read_text()
                try:
                    url = f"http://127.0.0.1:{port}/version?device=kitchen-1"
                    return (await client.get(url)).text == expected("1.4.0")
                except httpx.TransportError:
                    return False

            await until(answered)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), CEILING) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert elsewhere.is_file(), "settings of the server count"
    assert not list(place.data.rglob("evidence.db"))
    shown = await otaflux_async("rollouts", cwd=place.folder)
    assert "1.4.0" in shown.stdout
    assert "firmware" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["standalone"], 1, "--init"),
        (["standalone", "--manifests", ".", "--listen", "nowhere"], 2, "write HOST:PORT"),
        (["standalone", "--manifests", ".", "--listen", "127.0.0.1:99999"], 2, "write HOST:PORT"),
        (["standalone", "--manifests", ".", "--listen", "192.0.2.1:0"], 1, "--listen 192.0.2.1:0"),
        (["standalone", "--manifests", ".", "--data", "file"], 1, "file"),
        (["rollouts"], 1, "has standalone run there"),
    ],
)
def test_a_wrong_command_says_what_to_do(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "file").touch()
    ended = otaflux(*arguments, cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_setting_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTAFLUX_ARTIFACTS__MAX_BYTES", "plenty")
    ended = otaflux("standalone", "--manifests", ".", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: OTAFLUX_ARTIFACTS__MAX_BYTES: ")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("port", ["OTAFLUX_TLS", "OTAFLUX_INTERNAL__TLS"])
def test_tls_files_that_cannot_be_used_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    for name in ("certificate", "key"):
        monkeypatch.setenv(f"{port}__{name.upper()}", f"{name}.pem")
        (tmp_path / f"{name}.pem").write_text("none")
    listen = ("--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0")
    ended = otaflux("standalone", "--manifests", ".", *listen, cwd=tmp_path)
    assert ended.returncode == 1
    assert "Error: certificate certificate.pem holds no PEM block CERTIFICATE" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_without_rollouts_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Database(tmp_path / "data").close()
    shown = otaflux("rollouts", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, "")
    assert "No rollouts" in shown.stderr
    assert json.loads(otaflux("rollouts", "-o", "json", cwd=tmp_path).stdout) == []


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    assert otaflux("standalone", "--init", cwd=tmp_path).returncode == 0
    again = otaflux("standalone", "--init", cwd=tmp_path)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
