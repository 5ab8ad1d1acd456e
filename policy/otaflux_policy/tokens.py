"""Device tokens: what the server keeps of them, which is never the token itself.

A token is `otd_` and 43 characters of base64url: 256 random bits. Files of tokens hold one JSON
object a line (`DeviceToken.dumps`), so that a file is appended to, and a Secret's keys, mounted as
a folder, are files of it.
"""

import base64
import json
import re
import secrets
from hashlib import sha256
from typing import Annotated

import rfc8785
from pydantic import AwareDatetime, Field, ValidationError, model_validator

from otaflux_policy.models import ContractModel

PREFIX = "otd_"
_TOKEN = re.compile(r"otd_[A-Za-z0-9_-]{43}")


class InvalidToken(ValueError):
    """A line is no `DeviceToken`; the message names the field, never its value."""


class DeviceToken(ContractModel):
    """Whom a token stands for: devices of one namespace.

    `sha256`: hex digest of the token. `devices`: exact ids and globs; `group`: the devices of that
    DeviceGroup; one of the two. One exact id is a device's own token, `["*"]` that of a gateway
    which speaks for all of the namespace. `name` is for people and logs. `expires_at`: refused from
    then on.
    """

    name: Annotated[str, Field(min_length=1, max_length=253)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    devices: Annotated[tuple[str, ...], Field(max_length=1000)] = ()
    group: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    expires_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _of_something(self) -> "DeviceToken":
        if bool(self.devices) == (self.group is not None):
            raise ValueError("exactly one of devices and group")
        return self

    def dumps(self) -> str:
        """One line without its end (RFC 8785)."""
        return rfc8785.dumps(self.model_dump(mode="json", exclude_none=True)).decode()

    @classmethod
    def loads(cls, line: str) -> "DeviceToken":
        """The inverse of `dumps`. Raises InvalidToken."""
        problem = "not JSON"
        try:
            content = json.loads(line)
            json.dumps(content, ensure_ascii=False).encode()  # half a character is no text
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            problem = f"invalid at {'.'.join(map(str, first['loc'])) or 'its root'}"
        except (ValueError, RecursionError):
            pass
        raise InvalidToken(f"the entry is {problem}")


def new_token() -> str:
    """A new random token."""
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()


def is_token(text: str) -> bool:
    """Whether the text has the form of a token."""
    return _TOKEN.fullmatch(text) is not None


def hash_of(token: str) -> str:
    """What is stored of it: without a salt, as 256 random bits cannot be guessed."""
    return sha256(token.encode()).hexdigest()
