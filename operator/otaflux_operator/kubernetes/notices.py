"""Kubernetes Events (core/v1), aggregated: a repeated one only counts up."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from structlog import get_logger

from otaflux_operator.kubernetes.apis import FIELD_MANAGER, MERGE_PATCH, Api, NotFound
from otaflux_operator.ports import Conflict, Key, Notice, Unavailable
from otaflux_operator.resources import API_VERSION, timestamp

MEMORY = 4096
"""Events that are remembered to be counted up; beyond it the oldest are forgotten."""

_MESSAGE_LIMIT = 1024

log = get_logger(__name__)


@dataclass(slots=True)
class _Told:
    name: str
    count: int


class KubernetesNotices:
    """`ports.Notices`."""

    def __init__(self, api: Api, instance: str = "") -> None:
        self._api = api
        self._instance = instance or FIELD_MANAGER
        self._told: OrderedDict[tuple[Key, str, str, str], _Told] = OrderedDict()

    async def post(self, notice: Notice) -> None:
        """See `ports.Notices`."""
        identity = (notice.key, notice.uid, notice.reason, notice.message)
        told = self._told.get(identity)
        try:
            if told is None or not await self._count(notice, told):
                told = self._told[identity] = _Told(f"{notice.key.name}.{uuid4().hex[:16]}", 1)
                await self._api.post(_path(notice), self._event(notice, told))
        except (Unavailable, Conflict, NotFound) as error:
            self._told.pop(identity, None)
            log.warning("event not posted", object=str(notice.key), why=str(error))
            return
        self._told.move_to_end(identity)
        while len(self._told) > MEMORY:
            self._told.popitem(last=False)

    async def _count(self, notice: Notice, told: _Told) -> bool:
        """Counts the event up; False where it expired."""
        body = {"count": told.count + 1, "lastTimestamp": timestamp(notice.at)}
        try:
            await self._api.patch(f"{_path(notice)}/{told.name}", body, kind=MERGE_PATCH)
        except NotFound:
            return False
        told.count += 1
        return True

    def _event(self, notice: Notice, told: _Told) -> dict[str, Any]:
        at = timestamp(notice.at)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": told.name, "namespace": notice.key.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": notice.key.kind,
                "namespace": notice.key.namespace,
                "name": notice.key.name,
                "uid": notice.uid,
            },
            "type": "Warning" if notice.warning else "Normal",
            "reason": notice.reason,
            "message": notice.message[:_MESSAGE_LIMIT],
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._instance,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }


def _path(notice: Notice) -> str:
    return f"/api/v1/namespaces/{notice.key.namespace}/events"
