"""What exchanges with devices take and give, in words and schemas, and all of it as OpenAPI 3.1.

`DeviceApp` has no framework that would know; each `Exchange` says it of itself (`described`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otaflux_policy.devices import DEVICE_ID_PATTERN

if TYPE_CHECKING:
    from otaflux_server.protocols import Exchange

Schema = Mapping[str, Any]
"""A JSON schema (2020-12)."""

NAMESPACE_PATH: Final = "/t/{namespace}"


@dataclass(frozen=True, slots=True)
class Value:
    """A parameter, a header, or a field of a body."""

    name: str
    schema: Schema
    meaning: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """A body: its media type, and what it holds."""

    media_type: str
    schema: Schema


TEXT_ERROR: Final = Content("text/plain", {"type": "string", "pattern": "^Error: "})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a status means, and its body."""

    meaning: str
    content: Content | None = None
    headers: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """What an exchange takes and gives, beside what holds for all of them.

    `below` is the part of the path below a route that ends with `/`. `error`: what refusals look
    like. A HEAD gets the answers to a GET without their bodies.
    """

    answers: Mapping[int, Answer]
    query: tuple[Value, ...] = ()
    headers: tuple[Value, ...] = ()
    body: tuple[Value, ...] = ()
    below: Value | None = None
    error: Content = TEXT_ERROR


def text(limit: int) -> Schema:
    """A text of 1 to `limit` printable characters."""
    return {"type": "string", "minLength": 1, "maxLength": limit}


def fields(*values: Value) -> Schema:
    """An object of these, and of no others."""
    return {
        "type": "object",
        "properties": {each.name: {**each.schema, "description": each.meaning} for each in values},
        "required": [each.name for each in values if each.required],
        "additionalProperties": False,
    }


JSON_ERROR: Final = Content(
    "application/json",
    fields(
        Value("error", {"type": "string"}, "What is wrong.", required=True),
        Value("field", {"type": "string"}, "The field or parameter that is."),
    ),
)
OCTETS: Final = Content("application/octet-stream", {})

DEVICE: Final = Value(
    "device",
    {"type": "string", "pattern": DEVICE_ID_PATTERN},
    "The device's id. Where its certificate or token is that of one device alone, it may be left "
    "out; otherwise a request without it gets 400.",
)
VERSION: Final = Value("version", text(256), "The version that the device runs.")
MODEL: Final = Value("model", text(256), "The device's model.")

RANGE: Final = (
    Value(
        "Range", {"type": "string"}, "One range of bytes; several are answered with all of them."
    ),
    Value("If-Range", {"type": "string"}, "The ETag for which `Range` counts."),
    Value("If-None-Match", {"type": "string"}, "ETags for which the answer is 304."),
)
_ETAG = Value("ETag", {"type": "string", "pattern": '^"sha256:[0-9a-f]{64}"$'}, "The digest.")
_LENGTH = Value("Content-Length", {"type": "string", "pattern": "^[0-9]+$"}, "Bytes that follow.")
_RANGE_PATTERN = r"^bytes ([0-9]+-[0-9]+|\*)/[0-9]+$"
_RANGE_TOLD = Value("Content-Range", {"type": "string", "pattern": _RANGE_PATTERN}, "Which bytes.")
BYTES: Final = {
    200: Answer("All bytes of the artifact.", OCTETS, (_ETAG, _LENGTH)),
    206: Answer("The range that was asked for.", OCTETS, (_ETAG, _LENGTH, _RANGE_TOLD)),
    304: Answer("The device has these bytes already.", headers=(_ETAG,)),
    416: Answer("No byte of the range exists.", headers=(_ETAG, _RANGE_TOLD)),
}
"""The answers of a download."""

_RETRY = Value(
    "Retry-After", {"type": "string", "pattern": "^[1-9][0-9]*$"}, "Seconds to wait.", required=True
)
_REFUSALS: Final = {
    400: "A parameter or the body cannot be used; the answer says which.",
    401: "The identity that the server asks for (a certificate, or a token) is missing or refused.",
    403: "The identity is not that of the device, or of the namespace.",
    404: "There is no such path.",
    429: "The device, or its address, asks too often, or has too many downloads under way.",
}
_TOO_LARGE = "The body is too large."
_HEAD_TOO_LARGE = "The request's head is too large."


def document(routes: Mapping[str, "Exchange"]) -> dict[str, Any]:
    """The OpenAPI document of the routes (`DeviceApp.routes`)."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OtaFlux: the device port",
            "version": "1",
            "description": "Which identity is asked for, is one setting of the server for all.",
        },
        "servers": [
            {"url": "/", "description": "The device's namespace, else the default one."},
            {
                "url": NAMESPACE_PATH,
                "description": "A namespace by name.",
                "variables": {"namespace": {"default": "default"}},
            },
        ],
        "security": [{}, {"token": []}, {"certificate": []}],
        "paths": dict(_paths(routes)),
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "otd_…"},
                "certificate": {"type": "mutualTLS"},
            }
        },
    }


def _paths(routes: Mapping[str, "Exchange"]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, exchange in routes.items():
        below = exchange.described.below
        shown = path if below is None else f"{path}{{{below.name}}}"
        methods = sorted(exchange.methods)
        yield shown, {method.lower(): _operation(exchange, method) for method in methods}


def _operation(exchange: "Exchange", method: str) -> dict[str, Any]:
    said, kind = exchange.described, type(exchange)
    parameters = [
        *(_parameter("query", value) for value in said.query),
        *(_parameter("header", value) for value in said.headers),
    ]
    if said.below is not None:
        parameters.append({**_parameter("path", said.below), "required": True})
    found: dict[str, Any] = {
        "operationId": f"{method.lower()}{kind.__name__}",
        "tags": [exchange.protocol],
        "description": " ".join((kind.__doc__ or "").split()),
        "parameters": parameters,
        "responses": {
            str(status): _response(answer, method)
            for status, answer in sorted(_answers(exchange).items())
        },
    }
    if said.body:
        schema = {**fields(*said.body), "additionalProperties": True}
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return found


def _answers(exchange: "Exchange") -> dict[int, Answer]:
    said = exchange.described
    found = {
        status: Answer(meaning, said.error, (_RETRY,) if status == 429 else ())
        for status, meaning in _REFUSALS.items()
    }
    if exchange.reads_body:
        found[413] = Answer(_TOO_LARGE, said.error)
    found[431] = Answer(_HEAD_TOO_LARGE, TEXT_ERROR)
    return found | dict(said.answers)


def _parameter(where: str, value: Value) -> dict[str, Any]:
    return {
        "name": value.name,
        "in": where,
        "description": value.meaning,
        "required": value.required,
        "schema": value.schema,
    }


def _response(answer: Answer, method: str) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.meaning}
    if answer.headers:
        found["headers"] = {
            each.name: {
                "description": each.meaning,
                "required": each.required,
                "schema": each.schema,
            }
            for each in answer.headers
        }
    if answer.content is not None and method != "HEAD":
        found["content"] = {answer.content.media_type: {"schema": answer.content.schema}}
    return found
