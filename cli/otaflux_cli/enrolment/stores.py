"""Where enrolment keeps its records: a folder of small files, or the keys of a Secret.

Both are changed by `change`: read, edit, write back, with nobody in between. Every failure is a
UserError.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from otaflux_cli.errors import WRONG_USAGE, UserError

SYSTEM_NAMESPACE = "otaflux-system"
"""Where the update server runs unless somebody chose otherwise."""

MOST_BYTES = 32 * 1024 * 1024
"""Of a file: the server reads no longer one (`token_files.MAX_FILE_BYTES`)."""

Contents = Mapping[str, bytes]
Edit = Callable[[Contents], Contents]
"""From what is there to what is to be written: only what changes, in the order of writing."""


class Store(Protocol):
    """Named contents. `str()` of it is for people."""

    def read(self) -> dict[str, bytes]:
        """All that is there; empty where the store does not exist yet."""

    def change(self, edit: Edit) -> None:
        """Writes what `edit` makes of what is there; makes the store where it does not exist."""


class Folder:
    """Files of a folder: each is written whole or not at all (rename after fsync).

    New files are readable by their owner only, but for those in `public`; those that exist keep
    mode and owner. `names` are the files that concern us.
    """

    def __init__(self, path: Path, names: tuple[str, ...], *, public: tuple[str, ...] = ()) -> None:
        self._path = path
        self._names = names
        self._public = public

    def __str__(self) -> str:
        return str(self._path / self._names[0] if len(self._names) == 1 else self._path)

    def read(self) -> dict[str, bytes]:
        """See `Store`."""
        found = {}
        for name in self._names:
            with contextlib.suppress(FileNotFoundError):
                found[name] = read_file(self._path / name)
        return found

    def change(self, edit: Edit) -> None:
        """See `Store`. Others who change the folder by this wait meanwhile."""
        try:
            if not self._path.exists():
                edit({})  # an edit that is refused leaves no empty folder
                self._path.mkdir(parents=True)
            with _locked(self._path):
                for name, content in edit(self.read()).items():
                    if len(content) > MOST_BYTES:
                        raise UserError(
                            f"{self._path / name} would be longer than {MOST_BYTES} bytes",
                            hint="Begin another file in the folder.",
                        )
                    write_file(self._path / name, content, public=name in self._public)
        except OSError as error:
            raise UserError(f"{self._path} cannot be written: {error.strerror}") from None


def read_file(path: Path) -> bytes:
    """The content of a small file.

    Raises:
        FileNotFoundError: there is none.
        UserError: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} is longer than {MOST_BYTES} bytes")
    return content


def write_file(path: Path, content: bytes, *, public: bool = False) -> None:
    """Replaces or makes the file; on its disk when this returns. Raises OSError.

    `public`: everybody may read a new one, else its owner only.
    """
    from otaflux_server.policy_files import sync_directory

    # Hidden: a server that reads the folder meanwhile passes over it.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644 if public else 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                before = path.stat()
                os.fchown(handle, before.st_uid, before.st_gid)
                os.fchmod(handle, before.st_mode & 0o777)
            file.write(content)
            file.flush()
            os.fsync(handle)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def secret_name(text: str) -> tuple[str, str]:
    """Namespace and name of `[NAMESPACE/]NAME`; raises UserError."""
    namespace, _, name = text.rpartition("/")
    if not name or "/" in namespace or text.startswith("/"):
        raise UserError(
            f"{text!r} names no Secret: write NAME or NAMESPACE/NAME", exit_code=WRONG_USAGE
        )
    return namespace or SYSTEM_NAMESPACE, name
