"""Real servers for tests and the demo: API server, etcd, registry, with kubectl and oras.

``python -m otaflux_cli.control_plane prepare`` puts the programs into the
cache (standard library only, so that it runs before anything is installed);
``otaflux_cli.control_plane.api_servers`` and ``.registries`` start them.
"""

from .finding import Found, PartMissing, find, find_all, find_docker_registry

__all__ = ["Found", "PartMissing", "find", "find_all", "find_docker_registry"]
