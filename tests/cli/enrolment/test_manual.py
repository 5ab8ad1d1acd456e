"""The commands of docs/enrolment.md, run one after the other as they stand there."""

import asyncio
import os
import re
import sys
from pathlib import Path

from otaflux_cli.control_plane.api_servers import ControlPlane

PAGE = Path(__file__).parents[3] / "docs" / "enrolment.md"
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
OURS = ("otaflux device ", "openssl ")
OF_CERT_MANAGER = "otaflux device cert revoke kitchen-1.crt --ca secret:"
"""Of a certificate that only cert-manager could have made."""


def commands() -> list[str]:
    text = "\n".join(BLOCK.findall(PAGE.read_text())).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [
        line for line in lines if line.startswith(OURS) and not line.startswith(OF_CERT_MANAGER)
    ]


async def test_each_command_does_what_the_page_says(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    if (await control_plane.request("GET", "/api/v1/namespaces/otaflux-system")).is_error:
        await control_plane.create_namespace("otaflux-system")
    (tmp_path / "ids.txt").write_text("hall-1\nhall-2\n")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **control_plane.environment(), "PATH": programs}
    ran = commands()
    assert len(ran) >= 11
    for command in ran:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", command.replace("/etc/otaflux", str(tmp_path))),
            cwd=tmp_path,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        assert process.returncode == 0, f"{command}\n{said.decode()}"
    assert (tmp_path / "tokens.csv").read_text().startswith("id,token\nhall-1,otd_")
    assert (tmp_path / "kitchen-1.token").read_text().startswith("otd_")
    assert (tmp_path / "kitchen-1.crt").exists()
