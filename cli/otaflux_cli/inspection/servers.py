"""The internal API of an update server, asked for people: what goes wrong says what to do."""

import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from otaflux_cli.errors import WRONG_USAGE, UserError

TIMEOUT = 30.0
"""Seconds for a connection, and for each piece of the answer."""

_MOST_BYTES = 64 * 1024 * 1024
_HINT = (
    "It is the internal API that is asked, not the devices' port. For `otaflux standalone` on this "
    "host it is http://127.0.0.1:8081;\n"
    "in a cluster run `kubectl port-forward service/otaflux-server 8081` first. Another address: "
    "--server URL, or OTAFLUX_SERVER_URL."
)
_TOKEN_HINT = (
    "Which it takes, its OTAFLUX_INTERNAL__AUTHENTICATION says. For `ServiceAccount`, make one for "
    "an hour and give it:\n"
    "  kubectl create token otaflux-operator -n otaflux-system --audience otaflux-server > token\n"
    "  otaflux devices --server-token-file token   (or OTAFLUX_SERVER_TOKEN_FILE)\n"
    "For `Token`, give the file with the shared one."
)
_MOST_TOKEN_BYTES = 8192

_Model = TypeVar("_Model", bound=BaseModel)


class NotThere(UserError):
    """The server answered that there is no such thing."""


class InternalServer:
    """`with InternalServer(url) as server:`. Every method raises UserError.

    `token_file`: with the bearer token that it wants, if it wants one. `ca`: authorities of its
    certificate; None: the system's.
    """

    def __init__(self, url: str, *, token_file: Path | None = None, ca: Path | None = None) -> None:
        if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", url):
            raise UserError(
                f"--server {url!r} is no address: write http://host:port", exit_code=WRONG_USAGE
            )
        self._url = url.rstrip("/")
        # No proxy: it is a service of the cluster or this host.
        self._client = httpx.Client(
            trust_env=False, timeout=TIMEOUT, verify=_trusting(ca), headers=_headers(token_file)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(
        self, model: type[_Model], /, *path: str, **parameters: str | int | None
    ) -> tuple[_Model, Any]:
        """What is at `/internal/v1/PATH`: for us, and as it came. Parameters may be None."""
        place = "/".join(quote(part, safe="") for part in path)
        known = {name: str(value) for name, value in parameters.items() if value is not None}
        data = self._json(f"{self._url}/internal/v1/{place}", known)
        try:
            return model.model_validate(data, extra="ignore"), data
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise self._wrong(f"{where or 'it'}: {error.errors()[0]['msg']}") from None

    def _json(self, url: str, parameters: Mapping[str, str]) -> Any:
        with self._answer(url, parameters) as answer:
            content = bytearray()
            for part in answer.iter_bytes():
                content += part
                if len(content) > _MOST_BYTES:
                    raise self._wrong(f"longer than {_MOST_BYTES} bytes")
            try:
                data = json.loads(content)
            except ValueError:
                data = None
            if answer.status_code == 200 and data is not None:
                return data
            said = data.get("detail") if isinstance(data, dict) else None
            if answer.status_code in (401, 403):
                raise UserError(f"{self._url} does not let you in: {said}", hint=_TOKEN_HINT)
            if answer.status_code == 503 and said is not None:
                raise UserError(f"{self._url} cannot let you in now: {said}")
            if answer.status_code >= 500:
                raise UserError(
                    f"{self._url} failed to answer ({answer.status_code}): its log says why"
                )
            if said is None:
                raise self._wrong(f"status {answer.status_code} and no JSON of ours")
            if answer.status_code == 404 and said == "Not Found":
                raise self._wrong("it knows no such path; is it of another version?")
            if answer.status_code == 404:
                raise NotThere(str(said))
            raise UserError(f"the update server refuses: {_words(said)}")

    @contextmanager
    def _answer(self, url: str, parameters: Mapping[str, str]) -> Iterator[httpx.Response]:
        try:
            with self._client.stream("GET", url, params=parameters) as answer:
                yield answer
        except httpx.TimeoutException:
            raise UserError(f"{self._url} does not answer in time", hint=_HINT) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            hint = _HINT
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                hint = (
                    "Give the authority that issued its certificate: --server-ca FILE, or "
                    "OTAFLUX_SERVER_CA; and ask it by a name that is in the certificate."
                )
            raise UserError(f"{self._url} cannot be reached: {error}", hint=hint) from None

    def _wrong(self, why: str) -> UserError:
        return UserError(f"{self._url} gives an answer that is none of ours: {why}", hint=_HINT)


def _trusting(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:
        why = error.strerror or "no certificates in PEM"
        raise UserError(f"--server-ca {ca}: {why}", exit_code=WRONG_USAGE) from None


def _headers(token_file: Path | None) -> dict[str, str]:
    if token_file is None:
        return {}
    try:
        with token_file.open("rb") as file:
            token = file.read(_MOST_TOKEN_BYTES + 1).strip().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "holds no token"
        raise UserError(f"--server-token-file {token_file}: {why}", exit_code=WRONG_USAGE) from None
    if not re.fullmatch(r"[!-~]{1,8192}", token):
        raise UserError(f"--server-token-file {token_file}: holds no token", exit_code=WRONG_USAGE)
    return {"Authorization": f"Bearer {token}"}


def _words(said: Any) -> str:
    """What FastAPI says of a request that it does not take."""
    if not isinstance(said, list):
        return str(said)
    return "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in said)
