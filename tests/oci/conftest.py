from tests.fixtures.name_servers import names
from tests.fixtures.oci_sources import client, kitchen, misbehaving
from tests.fixtures.secrecy import secrecy

__all__ = ["client", "kitchen", "misbehaving", "names", "secrecy"]
