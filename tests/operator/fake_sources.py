"""A registry in memory: under each tag a manifest whose content `Cluster.tags` names."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from otaflux_oci import Descriptor, Manifest, Repository, Source
from otaflux_oci.blobs import BlobStream
from otaflux_policy.credentials import RegistryAccess
from tests.operator.worlds import digest

if TYPE_CHECKING:
    from tests.operator.fakes import Cluster


class FakeSources:
    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster

    def open(
        self, repository: Repository, access: RegistryAccess, *, insecure: bool
    ) -> AbstractAsyncContextManager[Source]:
        self.cluster.accesses.append(access)
        return _source(self.cluster)


@asynccontextmanager
async def _source(cluster: "Cluster") -> AsyncIterator[Source]:
    yield _Source(cluster)


class _Source:
    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster

    async def manifest(self, repository: Repository, reference: str) -> Manifest:
        await self.cluster.called(f"manifest {reference}")
        if self.cluster.registry_error is not None:
            raise self.cluster.registry_error
        content = self.cluster.tags[reference]
        layer = Descriptor("application/octet-stream", digest(f"firmware {content}"), 1000)
        return Manifest(
            digest=digest(content),
            media_type="application/vnd.oci.image.manifest.v1+json",
            artifact_type=None,
            config=None,
            layers=(layer,),
        )

    async def digest(self, repository: Repository, tag: str) -> str:
        return (await self.manifest(repository, tag)).digest

    async def tags(self, repository: Repository) -> list[str]:
        return list(self.cluster.tags)

    async def referrers(self, repository: Repository, digest: str) -> list[Descriptor]:
        return []

    def blob(
        self, repository: Repository, descriptor: Descriptor, *, offset: int = 0
    ) -> BlobStream:
        raise AssertionError("the operator downloads nothing")
