"""The last known policies and groups on disk, so that a restart needs no API server.

    <data dir>/policies/<namespace>/<name>.json     canonical form, one file per rollout
    <data dir>/groups/<namespace>/<name>.json
    <data dir>/policies.json                        what else is remembered (`Saved`)

Written behind, each file at once (temporary file, fsync, rename), `policies.json` before the rest:
what is remembered of an object is on disk before the object is gone from there.
"""

import asyncio
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import structlog

log = structlog.get_logger(__name__)

Kind = Literal["policies", "groups"]
Key = tuple[str, str]
"""Namespace and name."""

Written = tuple[int, int]
"""Epoch and sequence."""

ByKey = dict[str, Written]
"""The highest by the id of the key that signed it; of an empty one: that is not known."""

NOTHING: Written = (-1, -1)
"""Below all that is ever written."""

_STATE = "policies.json"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_WRITE_RETRY_SECONDS = 1.0


def is_object_name(text: str) -> bool:
    """Whether `text` is a DNS subdomain, as all names of Kubernetes objects are."""
    return _NAME.fullmatch(text) is not None


@dataclass(slots=True)
class Saved:
    """What was on disk at start, not validated yet.

    `runs` are the highest of each rollout's name, `written` the highest (epoch, sequence) of each
    object, `forgotten` that of those no longer among them, `keys` the public keys of policies
    (PEM), `synced` whether a source was ever read.
    """

    policies: dict[Key, str] = field(default_factory=dict)
    groups: dict[Key, str] = field(default_factory=dict)
    runs: dict[Key, int] = field(default_factory=dict)
    written: dict[tuple[Kind, Key], ByKey] = field(default_factory=dict)
    forgotten: ByKey = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    synced: bool = False

    def dumps(self) -> bytes:
        """All but the policies and groups themselves, as it is saved."""
        content = {
            "synced": self.synced,
            "runs": {f"{namespace}/{name}": run for (namespace, name), run in self.runs.items()},
            "written": {
                f"{kind}/{namespace}/{name}": written
                for (kind, (namespace, name)), written in self.written.items()
            },
            "forgotten": self.forgotten,
            "keys": self.keys,
        }
        return json.dumps(content).encode()

    def loads(self, text: str) -> None:
        """The inverse of `dumps`. Raises ValueError, KeyError, TypeError, AttributeError."""
        content = json.loads(text)
        self.synced = content["synced"] is True
        for path, run in content["runs"].items():
            namespace, _, rollout = path.partition("/")
            self.runs[namespace, rollout] = int(run)
        for path, marks in content.get("written", {}).items():
            kind, namespace, name = path.split("/")
            self.written[_kind(kind), (namespace, name)] = _by_key(marks)
        self.forgotten = _by_key(content.get("forgotten", {}))
        self.keys = [str(key) for key in content.get("keys", ())]


def _by_key(marks: dict[str, list[int]]) -> ByKey:
    return {key: (int(epoch), int(sequence)) for key, (epoch, sequence) in marks.items()}


def _kind(text: str) -> Kind:
    if text == "policies":
        return "policies"
    if text == "groups":
        return "groups"
    raise ValueError("another kind")


def write_file(path: Path, content: bytes) -> None:
    """Replaces `path` by `content` at once and durably. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes renames in the directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class PolicyFiles:
    """Saves what `PolicyStore` serves; the newest content of each file wins."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state = directory / _STATE
        self._pending: dict[Path, bytes | None] = {}
        self._snapshot: Callable[[], bytes] | None = None
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.failure = ""
        """Why the last write failed; empty when it did not."""

    def load(self) -> Saved:
        """What earlier runs saved; a file that cannot be read counts as one of no content."""
        saved = Saved(policies=dict(self._texts("policies")), groups=dict(self._texts("groups")))
        try:
            saved.loads(self._state.read_text())
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("state of policies unreadable", path=str(self._state), error=str(error))
        return saved

    def _texts(self, kind: Kind) -> Iterator[tuple[Key, str]]:
        root = self._directory / kind
        for leftover in root.glob("*/.*.tmp"):
            leftover.unlink(missing_ok=True)
        for path in sorted(root.glob("*/*.json")):
            text = ""  # known to have been there, so that nobody does as if it had not
            try:
                text = path.read_text()
            except (OSError, ValueError) as error:
                log.warning("saved policy unreadable", path=str(path), error=str(error))
            yield (path.parent.name, path.stem), text

    def save(self, kind: Kind, key: Key, text: str) -> None:
        """Saves a policy or group soon."""
        self._put(self._path(kind, key), text.encode())

    def remove(self, kind: Kind, key: Key) -> None:
        """Removes a saved policy or group soon."""
        self._put(self._path(kind, key), None)

    def save_state(self, snapshot: Callable[[], bytes]) -> None:
        """Saves soon what `snapshot` gives then (`Saved.dumps`)."""
        self._snapshot = snapshot
        self._idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Writes what is pending until cancelled; a failing disk is retried each second."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = self._taken()
            writing = asyncio.ensure_future(asyncio.to_thread(self._write, batch))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                # The thread goes on: what is written after this must come after it.
                await asyncio.wait([writing])
                self._again(*writing.result())
                raise
            unsaved, self.failure = writing.result()
            if unsaved:
                self._again(unsaved, self.failure)
                await asyncio.sleep(_WRITE_RETRY_SECONDS)
                self._wake.set()
                continue
            if not self._pending and self._snapshot is None:
                self._idle.set()

    async def flush(self) -> None:
        """Waits until everything is on disk (while `run` runs)."""
        await self._idle.wait()

    def close(self) -> None:
        """Writes what is still pending; for the time after `run` was cancelled."""
        self._again(*self._write(self._taken()))
        self._pending = {}

    def _taken(self) -> dict[Path, bytes | None]:
        """What is pending, which is nothing from now on; the state first."""
        batch, self._pending = self._pending, {}
        state = batch.pop(self._state, None)
        if self._snapshot is not None:
            state, self._snapshot = self._snapshot(), None
        return batch if state is None else {self._state: state, **batch}

    def _again(self, unsaved: Mapping[Path, bytes | None], failure: str) -> None:
        self.failure = failure
        self._pending = {**unsaved, **self._pending}
        if failure:
            log.error("policies not saved: a restart would serve older ones", error=failure)

    def _put(self, path: Path, content: bytes | None) -> None:
        self._pending[path] = content
        self._idle.clear()
        self._wake.set()

    def _path(self, kind: Kind, key: Key) -> Path:
        namespace, name = key
        return self._directory / kind / namespace / f"{name}.json"

    def _write(self, batch: Mapping[Path, bytes | None]) -> tuple[dict[Path, bytes | None], str]:
        """What could not be written, and why."""
        unsaved: dict[Path, bytes | None] = {}
        failure = ""
        for path, content in batch.items():
            try:
                if content is not None:
                    write_file(path, content)
                elif self._state in unsaved:
                    unsaved[path] = None  # gone from here, it would be remembered nowhere
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                unsaved[path] = content
                failure = error.strerror or type(error).__name__
        return unsaved, failure
