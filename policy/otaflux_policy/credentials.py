"""What the server needs to pull from a private registry: entries of one Secret that it may read.

The operator writes the Secret. Its data key `entry_key(name)` holds `RegistryAccess.dumps()` of
the entry of that name, and an artifact of a policy names its entry in `credentials`. Nothing here
shows a secret: not by `repr`, not in an exception.
"""

import json
from hashlib import scrypt

import rfc8785
from pydantic import Field, ValidationError, model_validator

from otaflux_policy.models import ContractModel

ENTRY_SUFFIX = ".json"


class InvalidAccess(ValueError):
    """The text is no `RegistryAccess`; the message names the field, never its value."""


class RegistryAccess(ContractModel):
    """How to reach one registry. Texts; certificates and the key are PEM.

    `username` and `password` go together, and exclude `identity_token` (an OAuth2 refresh
    token); none of them: anonymous. `ca` is trusted besides the public authorities; `cert` and
    `key` go together.
    """

    username: str = ""
    password: str = Field(default="", repr=False)
    identity_token: str = Field(default="", repr=False)
    ca: str = Field(default="", repr=False)
    cert: str = Field(default="", repr=False)
    key: str = Field(default="", repr=False)

    @model_validator(mode="after")
    def _whole(self) -> "RegistryAccess":
        if self.identity_token and (self.username or self.password):
            raise ValueError("identityToken excludes username and password")
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing, so that the registry is reached without it."""
        return not self.model_dump(exclude_defaults=True)

    def dumps(self) -> str:
        """The canonical form (RFC 8785), as stored in the Secret."""
        return rfc8785.dumps(self.model_dump(mode="json", exclude_defaults=True)).decode()

    @classmethod
    def loads(cls, text: str) -> "RegistryAccess":
        """The inverse of `dumps`. Raises InvalidAccess."""
        problem = "not JSON"
        try:
            return cls.model_validate(json.loads(text))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "its root"
            # The text of a failed validation may repeat what it was given; its type does not.
            problem = f"invalid at {where} ({first['type']})"
        except (ValueError, RecursionError):
            pass
        # Raised out here: an exception of `json` or pydantic carries the document.
        raise InvalidAccess(f"the credentials entry is {problem}")


def entry_name(access: RegistryAccess) -> str:
    """The name of an entry: a hash of its content, 32 hex digits; takes some 50 ms.

    Names stand in policies, which more people may read than may read secrets: scrypt (RFC 7914)
    makes trying passwords against a name expensive.
    """
    digest = scrypt(
        access.dumps().encode(), salt=b"otaflux.io/registry-access", n=2**14, r=8, p=1, dklen=16
    )
    return digest.hex()


def entry_key(name: str) -> str:
    """The key in the Secret's data under which the entry of this name stands."""
    return name + ENTRY_SUFFIX
