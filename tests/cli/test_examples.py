"""The files of `examples/` are valid, here and at the API server."""

from pathlib import Path

import pytest

import otaflux_cli.standalone
from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.standalone.manifests import read_folder

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
OTHERS = "enrolment"
"""Not of our kinds: tests/cli/enrolment/test_examples.py."""
FOLDERS = [EXAMPLES, *(path for path in EXAMPLES.iterdir() if path.is_dir())]
FOLDERS = [folder for folder in FOLDERS if folder.name != OTHERS]
FILES = sorted(file for folder in FOLDERS for file in folder.glob("*.yaml"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_our_models_accept_every_example(folder: Path) -> None:
    read = read_folder(folder)
    assert read.problems == {}
    assert read.files
    assert all(content.manifests for content in read.files.values())


def test_our_models_accept_the_rollout_of_the_readme(tmp_path: Path) -> None:
    _, _, rest = (ROOT / "README.md").read_text().partition("```yaml\n")
    (tmp_path / "readme.yaml").write_text(rest.partition("```")[0])
    read = read_folder(tmp_path)
    assert read.problems == {}
    assert [key.name for key in read.files["readme.yaml"].manifests] == ["thermostat", "canaries"]


def test_what_init_writes_is_the_standalone_example() -> None:
    packaged = Path(otaflux_cli.standalone.__file__).with_name("example.yaml")
    assert (EXAMPLES / "standalone" / "firmware.yaml").read_text() == packaged.read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(EXAMPLES)))
async def test_the_api_server_accepts_every_example(
    control_plane: ControlPlane, namespace: str, file: Path
) -> None:
    await control_plane.kubectl("apply", "-n", namespace, "-f", str(file))
