"""What the API server and files hold: policies, groups, device tokens."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError
from rfc8785 import CanonicalizationError

from fuzz.targets.texts import encodable, text
from otaflux_policy.attempts import Evidence
from otaflux_policy.canonical import InvalidPolicy, dumps, loads_group, loads_policy, seal
from otaflux_policy.contract import Policy
from otaflux_policy.decisions import decide
from otaflux_policy.devices import Device
from otaflux_policy.groups import Group, Groups
from otaflux_policy.signing import InvalidKey, NotSigned, PublicKey, SigningKey, verify
from otaflux_policy.tokens import DeviceToken, InvalidToken

Published = TypeVar("Published", Policy, Group)

_KEY = SigningKey.generate()
_NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def policies(data: bytes) -> None:
    """A policy as it is, and once more with the revision of its content; it can be decided by."""
    policy = _loaded(data, Policy, loads_policy)
    if policy is None:
        return
    stored = frozenset(release.firmware.digest for release in policy.releases)
    for version in (None, "1.3.2", "0.9.0"):
        device = Device(policy.namespace, "kitchen-1", "thermostat-v2", version)
        decision = decide([policy], Groups([]), device, Evidence(stored=stored), _NOW)
        assert decision.release is None or decision.release in policy.releases


def groups(data: bytes) -> None:
    """A device group, likewise."""
    group = _loaded(data, Group, loads_group)
    if group is not None:
        known = Groups([group])
        known.labels("kitchen-1")
        known.model("kitchen-1")


def policy_signatures(data: bytes) -> None:
    """The line beside a policy, and the keys; nothing is signed by a key that signed nothing."""
    line, _, signed = text(data).partition("\n")
    for kind in (Policy, Group):
        try:
            verify(kind, signed, line, [_KEY.public])
        except NotSigned as error:
            encodable(str(error))
        else:
            raise AssertionError("nobody signed it")
    own = _KEY.sign(Policy, signed)
    assert verify(Policy, signed, own, [_KEY.public]) == _KEY.public
    for loads in (PublicKey.loads, SigningKey.loads):
        try:
            key = loads(data)
        except InvalidKey as error:
            encodable(str(error))
        else:
            assert "-----" not in repr(key)


def tokens(data: bytes) -> None:
    """A line of a file of device tokens."""
    try:
        token = DeviceToken.loads(text(data))
    except InvalidToken as error:
        encodable(str(error))
        return
    line = token.dumps()
    assert "\n" not in line
    assert DeviceToken.loads(line) == token


def _loaded(
    data: bytes, kind: type[Published], loads: Callable[..., Published]
) -> Published | None:
    """What the text holds, whatever its revision; it is the same after a round trip."""
    given = text(data)
    try:
        loads(given, namespace="home", name="thermostat")
    except InvalidPolicy as error:
        encodable(str(error))
    content = _object(given)
    if content is None:
        return None
    try:
        published = seal(kind.model_validate(content))
        place = {"namespace": published.namespace, "name": published.name}
        # The content in other words: it is the content that the revision is of.
        read = loads(json.dumps({**content, "revision": published.revision}), **place)
    except (ValidationError, CanonicalizationError, InvalidPolicy):
        return None
    assert read == published
    written = dumps(published)
    assert loads(written, **place) == published
    assert dumps(loads(written, **place)) == written
    return published


def _object(given: str) -> dict[str, Any] | None:
    try:
        content = json.loads(given)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
