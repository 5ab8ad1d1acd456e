"""What devices download of a resolved release; an archive is read once, not every interval."""

from collections import OrderedDict

from otaflux_oci import ArchivedFile, Resolved, Source, find_file, is_archive
from otaflux_policy.contract import Archive, Artifact

_KEPT = 1000
# Nobody says what a file in an archive is.
_FILE_TYPE = "application/octet-stream"


class Archives:
    """Remembers the files found last, by repository, layer and the path asked for.

    The repository counts, so that nobody learns of what only another one's credentials can read.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[str, str, str, str], ArchivedFile] = OrderedDict()

    async def firmware(self, source: Source, resolved: Resolved, path: str) -> Artifact:
        """The firmware itself, without the credentials for it. Raises OciError.

        `path`: where in an archive it is; empty: it is the only file there.
        """
        layer, repository = resolved.layer, str(resolved.repository)
        if not is_archive(layer):
            return Artifact(
                digest=layer.digest,
                size=layer.size,
                media_type=layer.media_type,
                repository=repository,
            )
        file = await self._file(source, resolved, path)
        return Artifact(
            digest=file.digest,
            size=file.size,
            media_type=_FILE_TYPE,
            repository=repository,
            archive=Archive(
                digest=layer.digest,
                size=layer.size,
                media_type=layer.media_type,
                path=file.path,
            ),
        )

    async def _file(self, source: Source, resolved: Resolved, path: str) -> ArchivedFile:
        layer = resolved.layer
        key = (str(resolved.repository), layer.digest, layer.media_type, path)
        found = self._files.pop(key, None)
        if found is None:
            found = await find_file(source, resolved.repository, layer, path=path)
        self._files[key] = found  # as the one used last
        if len(self._files) > _KEPT:
            self._files.popitem(last=False)
        return found
