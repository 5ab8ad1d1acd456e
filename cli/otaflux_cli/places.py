"""Where things are unless a command is told otherwise."""

from pathlib import Path

DEFAULT_MANIFESTS = Path("manifests")
DEFAULT_DATA = Path("data")
DEFAULT_LAYOUT = Path("firmware")
DEFAULT_REPOSITORY = "localhost/firmware"
"""What `otaflux firmware add` fills: a registry that nobody runs, so it can only be a layout's."""
