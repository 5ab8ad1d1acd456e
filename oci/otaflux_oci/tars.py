"""A strict reader of a tar archive that comes in parts: which file is it, and its bytes.

Format: POSIX.1-1988 ustar, POSIX.1-2001 pax, and GNU's long names. `tarfile` of the standard
library reads an extension header of any size into memory, goes on after damaged blocks, applies
sparse maps, and pulls from a file that blocks. Here nothing of the archive's choosing is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import AmbiguousLayers, InvalidArchive, NoFirmwareLayer, TooLarge

_BLOCK = 512
_MAGIC_POSIX = b"ustar\x0000"
_MAGIC_GNU = b"ustar  \x00"
_FILE = b"0"
_OLD_FILE = b"\0"
_FOLDER = b"5"
_PAX = b"x"
_LONG_NAME = b"L"
_REFUSED_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    b"g": "a global pax header",
    b"K": "a link",
    b"S": "a sparse file",
}
_BASE_256 = b"\x80"
"""GNU's and star's mark of a number that octal digits cannot hold."""
_PATH_BYTES = 255
_SHOWN = 8


@dataclass(frozen=True)
class TarLimits:
    """`file_bytes`: of any one member; `header_bytes`: of one pax header or long name."""

    file_bytes: int
    members: int
    header_bytes: int


class TarReader:
    """Finds one regular file: the one at `path`, or, if that is empty, the only one there is.

    `feed` it the parts in order, then `finish`; what `feed` returns is the file only once `finish`
    has returned its path. `where`: words for messages. Both raise InvalidArchive, TooLarge,
    NoFirmwareLayer, AmbiguousLayers.
    """

    def __init__(self, path: str, limits: TarLimits, *, where: str) -> None:
        self._wanted = plain_path(path.lstrip("/").encode(), where)
        self._limits = limits
        self._where = where
        self._block = bytearray()
        self._left = 0  # bytes of the present member that are still to come
        self._padding = 0
        self._chosen = False
        self._extension: bytearray | None = None
        self._extension_kind = b""
        self._long_name: bytes | None = None
        self._pax: dict[str, bytes] = {}
        self._members = 0
        self._zero_blocks = 0
        self._files: list[str] = []
        self._more_files = False
        self._found: str | None = None

    def feed(self, part: bytes) -> bytes:
        """The bytes of the file that are in this part."""
        found = bytearray()
        view = memoryview(part)
        while view:
            if self._left:
                piece, view = view[: self._left], view[self._left :]
                self._left -= len(piece)
                if self._extension is not None:
                    self._extension += piece
                    if not self._left:
                        self._extended(bytes(self._extension))
                elif self._chosen:
                    found += piece
            elif self._padding:
                piece, view = view[: self._padding], view[self._padding :]
                self._padding -= len(piece)
            elif self._zero_blocks == 2:
                if view.tobytes().strip(b"\0"):
                    raise self._invalid("something follows its end")
                break
            else:
                piece, view = view[: _BLOCK - len(self._block)], view[_BLOCK - len(self._block) :]
                self._block += piece
                if len(self._block) == _BLOCK:
                    block, self._block = bytes(self._block), bytearray()
                    self._header(block)
        return bytes(found)

    def finish(self) -> str:
        """The path of the file whose bytes were returned."""
        if self._zero_blocks < 2:
            raise self._invalid("it is cut off")
        if not self._wanted and (len(self._files) > 1 or self._more_files):
            raise AmbiguousLayers(
                f"{self._where} holds several files: {self._listed()}. Choose one with "
                "spec.artifact.layerSelector.title, its path in the archive."
            )
        if self._found is None:
            raise NoFirmwareLayer(
                f"{self._where} holds no file {self._wanted!r}, only {self._listed()}. Correct "
                "spec.artifact.layerSelector.title."
                if self._files
                else f"{self._where} holds no file at all. Build it with the firmware in it."
            )
        return self._found

    def _header(self, block: bytes) -> None:
        if not block.strip(b"\0"):
            if self._long_name is not None or self._pax:
                raise self._invalid("a header lacks its file")
            self._zero_blocks += 1
            return
        if self._zero_blocks:
            raise self._invalid("something follows its end")
        if sum(block[:148]) + 8 * ord(" ") + sum(block[156:]) != self._number(block[148:156]):
            raise self._invalid("a header is damaged")
        magic = block[257:265]
        if magic not in (_MAGIC_POSIX, _MAGIC_GNU):
            raise self._invalid("it is not in the format ustar, pax or GNU")
        kind, size = block[156:157], self._number(block[124:136])
        self._members += 1
        require_members(self._members, self._limits.members, self._where)
        require_plain(kind, self._where)
        if kind in (_PAX, _LONG_NAME):
            twice = bool(self._pax) if kind == _PAX else self._long_name is not None
            if twice or not size:
                raise self._invalid("a header stands twice or is empty")
            require_header(size, self._limits.header_bytes, self._where)
            self._extension, self._extension_kind = bytearray(), kind
        else:
            self._member(kind, size, self._name(block, magic))
        self._left = size
        self._padding = -size % _BLOCK

    def _name(self, block: bytes, magic: bytes) -> bytes:
        long_name, pax = self._long_name, self._pax
        self._long_name, self._pax = None, {}
        if "path" in pax:
            if long_name is not None:
                raise self._invalid("a file has two names")
            return pax["path"]
        if long_name is not None:
            return long_name
        name = block[:100].partition(b"\0")[0]
        prefix = block[345:500].partition(b"\0")[0] if magic == _MAGIC_POSIX else b""
        return prefix + b"/" + name if prefix else name

    def _member(self, kind: bytes, size: int, name: bytes) -> None:
        self._chosen = False
        path = plain_path(name, self._where)
        if kind == _FOLDER:
            if size:
                raise self._invalid("a folder has a size")
            return
        if not path or name.endswith(b"/"):
            raise self._invalid("a file has the name of a folder")
        require_size(size, self._limits.file_bytes, self._where)
        if len(self._files) < _SHOWN:
            self._files.append(path)
        else:
            self._more_files = True
        if path == self._wanted or (not self._wanted and self._found is None):
            if self._found is not None:
                raise self._invalid(f"the file {path!r} is there twice")
            self._found, self._chosen = path, True

    def _extended(self, body: bytes) -> None:
        self._extension = None
        if self._extension_kind == _LONG_NAME:
            self._long_name = body.removesuffix(b"\0")
        else:
            self._pax = self._records(body)

    def _records(self, body: bytes) -> dict[str, bytes]:
        """`<length> <key>=<value>\\n`, each key once; none that says where or how large data is."""
        records: dict[str, bytes] = {}
        start = 0
        while start < len(body):
            digits = body[start : start + 8].partition(b" ")[0]
            end = start + int(digits) if digits.isdigit() else 0
            key, equals, value = body[start + len(digits) + 1 : end - 1].partition(b"=")
            name = key.decode(errors="replace")
            if not start < end <= len(body) or body[end - 1 : end] != b"\n" or not equals:
                raise self._invalid("a pax header is damaged")
            require_no_override(name, self._where)
            if name in records:
                raise self._invalid("a pax header says something twice")
            records[name] = value
            start = end
        return records

    def _number(self, field: bytes) -> int:
        if field[:1] == _BASE_256:
            return int.from_bytes(field[1:], "big")
        digits = field.strip(b" \0")
        if not digits:
            return 0
        if digits.strip(b"01234567"):
            raise self._invalid("a header has a number that is not octal")
        return int(digits, 8)

    def _listed(self) -> str:
        return ", ".join([*map(repr, self._files), *(["…"] if self._more_files else [])])

    def _invalid(self, what: str) -> InvalidArchive:
        return InvalidArchive(f"{self._where} cannot be used as an archive: {what}.")


def plain_path(raw: bytes, where: str) -> str:
    """The path without `.` and empty parts. Raises InvalidArchive."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise InvalidArchive(f"{where} holds a path that is not UTF-8.") from None
    if len(raw) > _PATH_BYTES or not text.isprintable():
        raise InvalidArchive(
            f"{where} holds a path with control characters, or longer than {_PATH_BYTES} bytes."
        )
    require_inside(text, where)
    return "/".join(part for part in text.split("/") if part not in ("", "."))


def require_inside(path: str, where: str) -> None:
    """Raises InvalidArchive for a path that leads out of the archive."""
    if path.startswith("/") or ".." in path.split("/"):
        raise InvalidArchive(
            f"{where} holds the path {path!r}, which leads out of it. Build it again with plain "
            "relative paths."
        )


def require_plain(kind: bytes, where: str) -> None:
    """Raises InvalidArchive for a member that is more than a file or folder with a name."""
    if kind not in (_FILE, _OLD_FILE, _FOLDER, _PAX, _LONG_NAME):
        what = _REFUSED_KINDS.get(kind, "something that is neither a file nor a folder")
        raise InvalidArchive(f"{where} holds {what}. Build it with the firmware as a plain file.")


def require_no_override(key: str, where: str) -> None:
    """Raises InvalidArchive for a pax record that changes how long a member is or what is in it."""
    if key == "size" or key.startswith("GNU.sparse."):
        raise InvalidArchive(
            f"{where} has the pax record {key[:40]!r}. Build it without sparse files, of files "
            "smaller than 8 GiB."
        )


def require_size(size: int, limit: int, where: str) -> None:
    """Raises TooLarge for what a header claims, before a byte of it is read."""
    if size > limit:
        raise TooLarge(f"{where} holds a file of {size} bytes; the limit is {limit}.")


def require_members(count: int, limit: int, where: str) -> None:
    """Raises TooLarge."""
    if count > limit:
        raise TooLarge(f"{where} has more than {limit} members, the limit.")


def require_header(size: int, limit: int, where: str) -> None:
    """Raises TooLarge for an extension header, before it is kept."""
    if size > limit:
        raise TooLarge(f"{where} has a header of {size} bytes; the limit is {limit}.")
