"""The canonical form of what is published (RFC 8785), and the revision that names its content."""

import json
from hashlib import sha256
from typing import TypeVar

import rfc8785
from pydantic import ValidationError

from otaflux_policy.contract import POLICY_LIMIT, Policy
from otaflux_policy.groups import Group
from otaflux_policy.rejections import RejectionReason

Published = TypeVar("Published", Policy, Group)


class InvalidPolicy(ValueError):
    """The text is not a policy or group that may be used; the message says why."""

    def __init__(self, message: str, reason: RejectionReason = RejectionReason.INVALID) -> None:
        super().__init__(message)
        self.reason = reason


def revision(published: Policy | Group) -> str:
    """`sha256:<hex>` over the canonical form without the field `revision`."""
    content = published.model_dump(mode="json", exclude_none=True, exclude={"revision"})
    return f"sha256:{sha256(rfc8785.dumps(content)).hexdigest()}"


def seal(published: Published) -> Published:
    """The same with the revision of its content set."""
    return published.model_copy(update={"revision": revision(published)})


def dumps(published: Policy | Group) -> str:
    """The canonical form, as stored in a ConfigMap."""
    return rfc8785.dumps(published.model_dump(mode="json", exclude_none=True)).decode()


def loads_policy(text: str, *, namespace: str, name: str) -> Policy:
    """The policy in `text`, of the rollout `namespace/name`.

    Raises:
        InvalidPolicy: too large, not JSON, an unknown field or schema version, a revision that
            is not that of the content, or the policy of another rollout.
    """
    return _loads(Policy, text, namespace, name)


def loads_group(text: str, *, namespace: str, name: str) -> Group:
    """The group in `text`; otherwise as `loads_policy`."""
    return _loads(Group, text, namespace, name)


def _loads(kind: type[Published], text: str, namespace: str, name: str) -> Published:
    word = kind.__name__.lower()
    if len(text.encode(errors="replace")) > POLICY_LIMIT:
        raise InvalidPolicy(f"the {word} is larger than {POLICY_LIMIT} bytes")
    try:
        content = json.loads(text, object_pairs_hook=_unique)
        # Before all else: what cannot be read, for its version say, may still be a mere copy.
        if not _is_of(content, namespace, name):
            raise InvalidPolicy(
                f"the {word} belongs to another object than the one that holds it",
                RejectionReason.OTHER_OBJECT,
            )
        published = kind.model_validate(content)
    except InvalidPolicy:
        raise
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidPolicy(
            f"the {word} is invalid at {where or 'its root'}: {first['msg']}"
        ) from None
    except (ValueError, RecursionError):
        raise InvalidPolicy(f"the {word} is not JSON") from None
    try:
        named = revision(published)
    except rfc8785.CanonicalizationError:
        raise InvalidPolicy(f"the {word} has a number or text without a canonical form") from None
    if published.revision != named:
        raise InvalidPolicy(f"the {word}'s revision is not that of its content")
    return published


def _is_of(content: object, namespace: str, name: str) -> bool:
    """Whether it says that it is of this object, or of none."""
    if not isinstance(content, dict):
        return True
    said = (content.get("namespace", namespace), content.get("name", name))
    return said == (namespace, name)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    "".join(found).encode()  # no half characters (`\ud800`): they have no canonical form
    return found
