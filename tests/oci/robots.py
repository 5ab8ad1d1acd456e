"""The account that pulls in the tests of authentication, and what it must never show."""

import base64
import json

from otaflux_oci import Credentials

PASSWORD, WRONG, IDENTITY = "correct-horse-7", "wrong-battery-8", "refresh-staple-9"


def encoded(password: str) -> str:
    return base64.b64encode(f"robot$fw+pull:{password}".encode()).decode()


def secret(registry: str, **entry: str) -> Credentials:
    return Credentials.from_dockerconfigjson(json.dumps({"auths": {registry: entry}}))


def robot(registry: str, password: str = PASSWORD) -> Credentials:
    return secret(registry, auth=encoded(password))
