"""``python -m otaflux_cli.control_plane prepare|where``: standard library only."""

from __future__ import annotations

import argparse
import json
import sys

from .builds import BuildFailed, GoUnusable
from .caches import default_cache
from .finding import PartMissing, find, find_docker_registry
from .pins import PARTS
from .preparing import prepare


def main() -> int:
    """Run the command line; the exit code is 1 when a part could not be had."""
    parser = argparse.ArgumentParser(
        prog="python -m otaflux_cli.control_plane",
        description="API server, etcd, registry and their clients for tests and the demo.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="fetch or build what is missing")
    preparing.add_argument(
        "--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), metavar="PART",
        help=f"of: {' '.join(PARTS)} (all unless given)",
    )  # fmt: skip
    commands.add_parser("where", help="print as JSON what was found where")
    arguments = parser.parse_args()
    if arguments.command == "where":
        sys.stdout.write(json.dumps(_where(), indent=2) + "\n")
        return 0
    try:
        prepare(arguments.parts)
    except (PartMissing, GoUnusable, BuildFailed, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _where() -> dict[str, object]:
    found = [(name, find(name)) for name in PARTS]
    found.append(("docker-registry", find_docker_registry()))
    return {
        "cache": str(default_cache().root),
        "parts": {
            name: part and {"path": str(part.path), "source": part.source, "version": part.version}
            for name, part in found
        },
    }


if __name__ == "__main__":
    sys.exit(main())
