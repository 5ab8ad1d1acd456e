"""What the operator needs from outside: one adapter speaks to Kubernetes, one is standalone.

All methods are coroutines that must not block the event loop. Beside what each names they may
raise `Unavailable`: the runner then tries again later, with backoff.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from otaflux_oci import Repository, Source
from otaflux_operator.resources import (
    DeviceGroup,
    FirmwareRollout,
    GroupStatus,
    RolloutStatus,
)
from otaflux_policy.contract import Policy
from otaflux_policy.credentials import RegistryAccess
from otaflux_policy.groups import Group
from otaflux_policy.served import ServedRollout


class Kind(StrEnum):
    """The kinds of objects that are reconciled."""

    ROLLOUT = "FirmwareRollout"
    GROUP = "DeviceGroup"


@dataclass(frozen=True, order=True, slots=True)
class Key:
    """Names one object."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Unavailable(Exception):
    """The other side cannot be used now. The message holds no secret."""


class Conflict(Exception):
    """The object is not in the version that was read: observe again."""


class Malformed(Exception):
    """The object is there, but its spec cannot be read; the message names the field.

    `version` is that of the object, `status` what could be read of its status.
    """

    def __init__(
        self,
        message: str,
        *,
        uid: str = "",
        generation: int = 0,
        version: str = "",
        status: RolloutStatus | GroupStatus | None = None,
    ) -> None:
        super().__init__(message)
        self.uid = uid
        self.generation = generation
        self.version = version
        self.status = status


Content = TypeVar("Content", Policy, Group)


@dataclass(frozen=True, slots=True)
class Published(Generic[Content]):
    """What is published for an object now.

    `content` is None where it is unusable (`problem` says why). `owner` is the UID of the object
    that owns it, `version` what a write must name as the version it replaces. `damaged`: it has to
    be written again even if it says the right thing; `tampered`: what somebody else changed.
    """

    content: Content | None
    version: str
    owner: str = ""
    problem: str = ""
    damaged: bool = False
    tampered: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell whoever looks at the object `key` (a Kubernetes Event)."""

    key: Key
    uid: str
    reason: str
    message: str
    warning: bool
    at: datetime


class Resources(Protocol):
    """The objects that users write, and their status."""

    async def rollout(self, namespace: str, name: str) -> FirmwareRollout | None:
        """The object as it is now; None where there is none, or it is being deleted.

        Raises:
            Malformed: the object is there, but is no FirmwareRollout.
        """
        ...

    async def group(self, namespace: str, name: str) -> DeviceGroup | None:
        """As `rollout`."""
        ...

    async def groups(self, namespace: str) -> list[DeviceGroup]:
        """All readable groups of a namespace, in no particular order."""
        ...

    async def keys(self) -> set[Key]:
        """Every object there is, also what is malformed; not what is being deleted."""
        ...

    async def write_status(
        self, key: Key, status: RolloutStatus | GroupStatus, version: str
    ) -> None:
        """Replaces the status of the object that was read in `version`.

        Raises:
            Conflict: it is in another version by now, or gone.
        """
        ...


class Publications(Protocol):
    """The policies and groups that the servers read."""

    @property
    def problem(self) -> str:
        """Why nothing can be published now, whatever it is; empty: it can."""
        ...

    async def policy(self, namespace: str, name: str) -> Published[Policy] | None:
        """The policy that is published for a rollout."""
        ...

    async def group(self, namespace: str, name: str) -> Published[Group] | None:
        """What is published for a DeviceGroup."""
        ...

    async def keys(self) -> set[Key]:
        """The objects for which anything is published, whether they exist or not."""
        ...

    async def entries(self) -> set[str]:
        """The names of the credentials entries that any published policy refers to."""
        ...

    async def publish(
        self, key: Key, content: Policy | Group, *, owner: str, version: str | None
    ) -> None:
        """Publishes sealed content, owned by the object with the UID `owner`.

        `version` is that of what it replaces; None: nothing may be there yet.

        Raises:
            Conflict: something else is there than `version` says.
        """
        ...

    async def withdraw(self, key: Key) -> bool:
        """Removes what is published for an object; False where nothing was."""
        ...


class Notices(Protocol):
    """Where people are told what happens. Repetition is the adapter's to aggregate."""

    async def post(self, notice: Notice) -> None:
        """Tells it; what cannot be told is lost, and the adapter says so in its log."""
        ...


class Secrets(Protocol):
    """The Secrets that rollouts refer to."""

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """The decoded data of a Secret; None where there is none."""
        ...


class CredentialEntries(Protocol):
    """The one place from which the servers read pull credentials."""

    async def names(self) -> set[str]:
        """The entries there are."""
        ...

    async def add(self, name: str, access: RegistryAccess) -> None:
        """Writes an entry. One that is there already has the same content."""
        ...

    async def remove(self, names: Iterable[str]) -> None:
        """Removes entries; those that are not there are no error."""
        ...


class UpdateServers(Protocol):
    """The servers' internal API."""

    async def served(self, namespace: str, name: str) -> ServedRollout:
        """What the servers say of a rollout.

        Raises:
            Unavailable: they do not answer, or not with that; the message says how to look.
        """
        ...


class Sources(Protocol):
    """Where artifacts come from."""

    def open(
        self, repository: Repository, access: RegistryAccess, *, insecure: bool
    ) -> AbstractAsyncContextManager[Source]:
        """A source for one repository (empty `access`: anonymous). Errors are those of OciError."""
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """All of them, as the operator is given them."""

    resources: Resources
    publications: Publications
    notices: Notices
    secrets: Secrets
    entries: CredentialEntries
    servers: UpdateServers
    sources: Sources
