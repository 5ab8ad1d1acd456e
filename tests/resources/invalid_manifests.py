"""The suite of invalid manifests that goes through both doors, each with one thing wrong.

Bounds, types, enums and patterns are broken by a walk over the schema (`broken_keywords`); the
rules, which say in CEL what no keyword can, by the tables here. `tests/resources/test_suite.py`
proves that nothing that can refuse a value is left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from otaflux_operator.resources import rules
from otaflux_operator.resources.rules import VALIDATIONS
from tests.resources.schemas import (
    Manifest,
    Node,
    Path,
    changed,
    concrete,
    nodes,
    written,
)
from tests.resources.valid_manifests import VALID, WITH_STATUS, rollout, rollout_without_approvals

Change = Callable[[Any], Any]


@dataclass(frozen=True)
class Case:
    """An invalid manifest: the field and a part of the message that must refuse it.

    `refuses` is the keyword or the rule's message that is tried, at `node`.
    """

    node: str
    refuses: str
    variant: str
    manifest: Manifest
    field: str
    message: str

    @property
    def name(self) -> str:
        """For the test's id."""
        return f"{self.node or 'object'}-{self.refuses[:30]}-{self.variant[:20]}"

    @property
    def in_status(self) -> bool:
        """Whether it is the status that is wrong."""
        return self.node.split(":")[1].startswith("status")

    @property
    def by_rule(self) -> bool:
        """Whether it is a rule that refuses it, so that the message is ours."""
        return self.refuses == self.message


# What matches no format of the message that begins so.
BAD_TEXTS: dict[str, tuple[str, ...]] = {
    "write the name of a Kubernetes object": ("", "Harbor", "harbor_robot", "-a", "a."),
    "write host[:port]/path": (
        "",
        "registry.example.com",
        "https://registry.example.com/firmware",
        "registry.example.com/firmware:1.4.0",
        "registry.example.com/firmware@sha256:ab",
        "registry.example.com/Firmware",
        "registry.example.com//firmware",
        "registry.example.com/firmware/",
        "registry.example.com:port/firmware",
        "user:password@registry.example.com/firmware",
        "firmware/thermostat",
        "thermostat",
        "registry.example.com/firmware\n",
    ),
    "write a tag": ("", ".1", "-1", "1.4.0+a", "a b", "a:b", "1.4.0\n"),
    "write a range": ("", " ", "~1.4.0\n", "^1.4.0; rm", "{1}"),
    "write the manifest's digest": (
        "",
        "sha256:",
        f"sha256:{'A' * 64}",
        f"sha256:{'a' * 63}",
        "a" * 64,
        f"md5:{'a' * 32}",
    ),
    "write a media type": ("octet-stream", "a/", "/a", "a/b/c", "a/b; c=d"),
    "write a text without": ("a\nb", "\t", "a\x7f"),
    "write a version": ("-1", "1.4.0 ", "v 1", "1.4.0\n", "ä", "<1.4.0>"),
    "write a semantic version": (
        "",
        "1.2",
        "1",
        "1.2.3.4",
        "01.2.3",
        "1.2.3-",
        "latest",
        "1.2.3 ",
    ),
    "write the version of the release": ("", "-1", "1.4.0 ", "a/b", "1.4.0\n"),
    "write a ring's name": ("", "Canary", "-a", "a-", "a.b", "a b", "canary\n"),
    "write a device id": ("", "-a", "a b", "a/b", "ä", "[ab]", "kitchen-1\n"),
    "write the model": ("", " a", "a ", "a\nb", "ä"),
    "write a label key": ("", "a b", "/a", "a/", "a/b/c", "Example.com/a", "-a", "a" * 64),
    "write a label value": ("", "-a", "a b", "a/b", "ä", "berlin\n"),
    "write a token": ("a b", "a/b", "a\n"),
    "write a time zone": ("", "+01:00", "Europe/", "Europe Berlin", "/UTC", "UTC\n"),
    "write five cron fields": (
        "",
        "0 2 * *",
        "0 2 * * * *",
        "60 2 * * *",
        "0 24 * * *",
        "0 2 0 * *",
        "0 2 32 * *",
        "0 2 * 13 *",
        "0 2 * * 8",
        "0 2 * * mond",
        "0 2 * * jan",
        "0 2 * abc *",
        "@daily",
        "0 2 * * ?",
        "0 2,* * *",
        "*/0 * * * *",
        " 0 2 * * *",
    ),
    "write a duration of at least 1s": (
        "",
        "0s",
        "0",
        "1",
        "1d",
        "1.5h",
        "-1h",
        "1h ",
        "30s1h",
        "1ms",
        "100000h",
        "1h\n",
    ),
    "write a duration of at least 0s": ("", "0", "1d", "-1s", "1m1h"),
    "write a duration of at least 1m": ("", "0h", "59s", "1d"),
}

_RINGS: Path = ("spec", "rings")
_KEYS = "write a label key as"
_VALUE = "a"


def _with(**fields: Any) -> Change:
    return lambda value: {**value, **fields}


def _always(value: Any) -> Change:
    return lambda _: value


def _without(*names: str) -> Change:
    return lambda value: {name: item for name, item in value.items() if name not in names}


def _at(index: int, change: Change) -> Change:
    return lambda entries: [
        change(entry) if position == index else entry for position, entry in enumerate(entries)
    ]


# What breaks a rule over several fields or keys: the beginning of its message, the field that
# the refusal names (below the value), and changes of the value that break it.
BAD_VALUES: dict[str, tuple[str, dict[str, Change]]] = {
    "write a name of at most 63": (
        "metadata.name",
        {"64 characters": _with(metadata={"name": "a" * 64})},
    ),
    "write the name of an entry of rings": (
        "approvals",
        {
            "no such ring": _with(
                approvals=[
                    {"ring": "fleet", "release": "1.4.0"},
                    {"ring": "flet", "release": "1.4.0"},
                ]
            ),
            "a ring renamed": lambda spec: {
                **spec,
                "rings": _at(0, _with(name="first"))(spec["rings"]),
            },
        },
    ),
    "write an activeWithin": (
        "activeWithin",
        {
            "shorter": _with(activeWithin="23h59m59s"),
            "shorter than the default": lambda spec: {
                **_without("deviceTimeout")(spec),
                "activeWithin": "1h",
            },
            "the default is shorter": lambda spec: {
                **_without("activeWithin")(spec),
                "deviceTimeout": "168h1s",
            },
        },
    ),
    "write exactly one of tag": (
        "",
        {
            "none": _without("tag"),
            "tag and semver": _with(semver="~1.4.0"),
            "tag and digest": _with(digest=f"sha256:{'a' * 64}"),
            "semver and digest": lambda artifact: {
                **_without("tag")(artifact),
                "semver": "~1.4.0",
                "digest": f"sha256:{'a' * 64}",
            },
            "all": _with(semver="~1.4.0", digest=f"sha256:{'a' * 64}"),
        },
    ),
    "write percentages": (
        "",
        {
            "falling": _at(2, _with(percent=9)),
            "falling past a ring with a selector": lambda rings: [
                {"name": "first", "percent": 60},
                *rings[:1],
                *rings[2:],
            ],
            "an empty selector is none": _at(
                2, _with(percent=9, deviceSelector={"names": [], "matchLabels": {}})
            ),
        },
    ),
    "write a percent or": (
        "",
        {
            "neither": _at(1, _without("percent")),
            "an empty selector": _at(2, _without("percent")),
            "empty parts of a selector": _at(
                1,
                lambda ring: {
                    "name": ring["name"],
                    "deviceSelector": {"names": [], "matchLabels": {}, "matchExpressions": []},
                },
            ),
        },
    ),
    "write at least one value": (
        "values",
        {
            "In": _without("values"),
            "empty": _with(values=[]),
            "NotIn": lambda entry: {**_without("values")(entry), "operator": "NotIn"},
        },
    ),
    "remove the values": (
        "values",
        {"Exists": _with(operator="Exists"), "DoesNotExist": _with(operator="DoesNotExist")},
    ),
    _KEYS: (
        "",
        {
            key[:20]: _with(**{key: _VALUE})
            for key in (
                *BAD_TEXTS["write a label key"],
                f"{'.'.join(['a' * 63] * 4)}/{'a' * 63}",
            )
        },
    ),
    "write another prefix": (
        "",
        {"device": _with(**{"otaflux.io/device": _VALUE}), "x": _with(**{"otaflux.io/x": _VALUE})},
    ),
}


def suite() -> Iterator[Case]:
    """Every case."""
    for node in nodes():
        yield from broken_keywords(node)
        yield from broken_rules(node)


def broken_rules(node: Node) -> Iterator[Case]:
    """Cases of the rules of `node`, from the tables."""
    for rule in node.schema.get(VALIDATIONS, ()):
        message = rule["message"]
        field, changes = _breaks(message, node)
        for variant, change in changes.items():
            base, path = _base(node)
            manifest = changed(base, path, change)
            place = ".".join(part for part in (written(path), field) if part)
            yield Case(node.name, message, variant, manifest, place, message)


def _breaks(message: str, node: Node) -> tuple[str, dict[str, Change]]:
    if node.schema["type"] != "string":
        return next(entry for start, entry in BAD_VALUES.items() if message.startswith(start))
    texts = next(texts for start, texts in BAD_TEXTS.items() if message.startswith(start))
    return "", {repr(text): _always(text) for text in texts}


def broken_keywords(node: Node) -> Iterator[Case]:
    """Cases of everything in the schema of `node` that is not a rule."""
    schema = node.schema
    if node.path:
        for keyword, (change, suffix, message) in _keyword_breaks(schema).items():
            base, path = _base(node)
            manifest = changed(base, path, change)
            yield Case(node.name, keyword, "", manifest, written(path) + suffix, message)
    for name in schema.get("required", ()):
        base, path = _base(node)
        manifest = changed(base, path, _without(name))
        place = written((*path, name))
        yield Case(node.name, "required", name, manifest, place, "Required value")


def _keyword_breaks(schema: dict[str, Any]) -> dict[str, tuple[Change, str, str]]:
    """By keyword: the change that breaks it, the field below that is named, the message."""
    # A text with a format is called by it.
    named = {**schema, "type": (schema["type"], schema.get("format", schema["type"]))}
    made = {keyword: _keyword_break(keyword, value) for keyword, value in named.items()}
    return {keyword: broken for keyword, broken in made.items() if broken is not None}


def _keyword_break(keyword: str, bound: Any) -> tuple[Change, str, str] | None:
    match keyword:
        case "type":
            kind, called = bound
            wrong: Any = 7 if kind == "string" else "text"
            return lambda _: wrong, "", f"must be of type {called}"
        case "format":
            return lambda _: "yesterday", "", f"must be of type {bound}"
        case "enum":
            return lambda _: "Wrong", "", 'Unsupported value: "Wrong"'
        case "pattern":
            return lambda _: "no reason", "", f"should match '{bound}'"
        case "minimum":
            return lambda _: bound - 1, "", f"greater than or equal to {bound}"
        case "maximum":
            return lambda _: bound + 1, "", f"less than or equal to {bound}"
        case "maxLength":
            return (
                lambda text: text + "a" * (bound + 1 - len(text)),
                "",
                f"Too long: may not be more than {bound} bytes",
            )
        case "minItems":
            return lambda _: [], "", f"at least {bound} items"
        case "maxItems":
            return lambda present: _distinct(present, bound + 1), "", f"at most {bound} items"
        case "maxProperties":
            return (
                lambda _: {f"key-{number}": _VALUE for number in range(bound + 1)},
                "",
                f"at most {bound} items",
            )
        case rules.LIST_TYPE:
            return lambda present: [present[0], *present], "[1]", "Duplicate value"
    return None


def _distinct(present: list[Any], count: int) -> list[Any]:
    """`count` entries, different ones made from the first, those present at the end."""
    first = present[0]
    made = count - len(present)
    if isinstance(first, str):
        return [*(f"{first}-{n}" for n in range(made)), *present]
    keys = [key for key in ("name", "release", "type") if key in first]
    return [*({**first, **dict.fromkeys(keys, f"x{n}")} for n in range(made)), *present]


def _base(node: Node) -> tuple[Manifest, Path]:
    """A valid manifest that has a value at the path of `node`, and the path in it."""
    if node.path in (_RINGS, (*_RINGS, 0), (*_RINGS, 0, "name")):
        return rollout_without_approvals(), node.path
    for manifest in (WITH_STATUS if node.path[:1] == ("status",) else VALID).values():
        if manifest["kind"] == node.kind:
            path = concrete(manifest, node.path)
            if path is not None:
                return manifest, path
    raise AssertionError(f"no valid manifest sets {node.name}")


def several() -> Manifest:
    """A rollout with one mistake in each of three places."""
    manifest = rollout(tag="a b")
    manifest["spec"]["rings"][0]["percent"] = 101
    manifest["spec"]["deviceTimeout"] = "1d"
    return manifest
