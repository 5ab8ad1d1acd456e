"""Random rollouts, of which about half are valid: what the two doors must agree on."""

from collections.abc import Iterator
from random import Random
from typing import Any

from tests.resources.invalid_manifests import BAD_TEXTS
from tests.resources.valid_manifests import Manifest, smallest_rollout

_GOOD_TEXTS = {
    "repository": ("localhost/a", "r.example.com:5000/a/b--c", "[::1]:5000/a_b", "registry:80/x"),
    "tag": ("latest", "_1", "1.4.0-rc.1"),
    "version": ("", "1.4.0+build.7", "2026~1"),
    "retryToken": ("", "2026-01-31T10:00:00Z"),
    "deviceTimeout": ("1s", "1h1m1s", "99999h"),
}
_BAD_STARTS = {
    "repository": "write host[:port]/path",
    "tag": "write a tag",
    "version": "write a version",
    "retryToken": "write a token",
    "deviceTimeout": "write a duration of at least 1s",
}
_SELECTORS: tuple[Manifest | None, ...] = (
    None,
    None,
    {},
    {"names": []},
    {"names": ["lab-*"]},
    {"matchLabels": {}, "matchExpressions": []},
    {"matchLabels": {"ring": "canary"}},
    {"matchExpressions": [{"key": "beta", "operator": "Exists"}]},
)


def random_rollouts(*, seed: int, count: int) -> Iterator[Manifest]:
    """`count` rollouts, the same for the same seed."""
    random = Random(seed)
    for _ in range(count):
        yield _rollout(random)


def _rollout(random: Random) -> Manifest:
    manifest = smallest_rollout()
    spec = manifest["spec"]
    spec["artifact"] = {"repository": _text(random, "repository"), "tag": _text(random, "tag")}
    for field in ("version", "retryToken"):
        spec[field] = _text(random, field)
    spec["deviceTimeout"] = _text(random, "deviceTimeout")
    spec["activeWithin"] = random.choice(["99999h", "99999h", "99999h", "168h", "1s"])
    spec["rings"] = [_ring(random, number) for number in range(random.randint(1, 4))]
    if random.random() < 0.7:
        spec["rings"][-1] = {"name": "fleet"}
    rings = [ring["name"] for ring in spec["rings"]]
    spec["approvals"] = [
        {"ring": random.choice([*rings, *rings, "canary"]), "release": f"1.{number}.0"}
        for number in range(random.randint(0, 2))
    ]
    return manifest


def _ring(random: Random, number: int) -> Manifest:
    ring: dict[str, Any] = {"name": f"ring-{number}"}
    if random.random() < 0.8:
        ring["percent"] = min(100, max(1, 25 * number + random.randint(1, 30)))
    selector = random.choice(_SELECTORS)
    if selector is not None:
        ring["deviceSelector"] = selector
    return ring


def _text(random: Random, field: str) -> str:
    if random.random() < 0.05:
        return random.choice(BAD_TEXTS[_BAD_STARTS[field]])
    return random.choice(_GOOD_TEXTS[field])
