"""What the control plane consists of: parts, versions, checksums.

Changing anything here, or in the Go modules beside this file, changes the
name of a part's folder in the cache, so that the part is prepared again.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

GO_MODULES = Path(__file__).parent / "go"
GO_AT_LEAST = (1, 26)

KUBERNETES_VERSION = "v1.36.3"
ETCD_VERSION = "v3.6.16"
REGISTRY_VERSION = "v3.1.2"
ORAS_VERSION = "v1.3.6"
COSIGN_VERSION = "v3.1.3"

_KUBERNETES_VARIABLES = {
    "k8s.io/component-base/version.gitVersion": KUBERNETES_VERSION,
    "k8s.io/component-base/version.gitMajor": KUBERNETES_VERSION.removeprefix("v").split(".")[0],
    "k8s.io/component-base/version.gitMinor": KUBERNETES_VERSION.split(".")[1],
    "k8s.io/client-go/pkg/version.gitVersion": KUBERNETES_VERSION,
}


@dataclass(frozen=True)
class Part:
    """One program of the control plane, and how Go makes it.

    ``module`` names a folder of ``GO_MODULES`` that is built with its own
    checked-in ``go.sum``; without it, ``package`` is installed at ``version``.
    ``seconds`` is what a build takes on two cores with an empty cache.
    """

    name: str
    version: str
    package: str
    seconds: int
    module: str | None = None
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def ldflags(self) -> str:
        return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.variables)])

    @property
    def stamp(self) -> str:
        """Eight hex digits that change with everything that decides what is built."""
        digest = hashlib.sha256()
        for text in (self.version, self.package, self.ldflags):
            digest.update(text.encode() + b"\0")
        if self.module is not None:
            for file in sorted((GO_MODULES / self.module).iterdir()):
                digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
        return digest.hexdigest()[:8]

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.version}-{platform_name()}-go-{self.stamp}"


@dataclass(frozen=True)
class Archive:
    """The official archive of test binaries for one platform."""

    version: str
    platform: str
    sha512: str
    base_url: str = "https://github.com/kubernetes-sigs/controller-tools/releases/download"

    @property
    def url(self) -> str:
        return f"{self.base_url}/envtest-{self.version}/{self.folder}.tar.gz"

    @property
    def folder(self) -> str:
        return f"envtest-{self.version}-{self.platform}"


def _kubernetes(name: str, seconds: int) -> Part:
    return Part(
        name,
        KUBERNETES_VERSION,
        f"k8s.io/kubernetes/cmd/{name}",
        seconds,
        module="kubernetes",
        variables=tuple(_KUBERNETES_VARIABLES.items()),
    )


# In the order in which they are built: what most tests need comes first.
PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("etcd", ETCD_VERSION, "go.etcd.io/etcd/server/v3", 40, module="etcd"),
        _kubernetes("kube-apiserver", 300),
        _kubernetes("kubectl", 60),
        Part(
            "registry",
            REGISTRY_VERSION,
            "github.com/distribution/distribution/v3/cmd/registry",
            95,
        ),
        Part("oras", ORAS_VERSION, "oras.land/oras/cmd/oras", 10),
        Part("cosign", COSIGN_VERSION, "github.com/sigstore/cosign/v3/cmd/cosign", 150),
        _kubernetes("kube-controller-manager", 60),
    )
}

ARCHIVED_PARTS = ("etcd", "kube-apiserver", "kubectl")

_ARCHIVE_VERSION = "v1.36.2"
_ARCHIVES = {
    "linux-amd64": (
        "ea743186c8a799f5cf8faf16969f86189d003cb7d130e0ac4b58789f1e5748dc"
        "f30ebe91c837a10d5ac415383da3e10b9e64d65785c938c23e739781cfb76f08"
    ),
    "linux-arm64": (
        "2d72ee985a8e262a3c57dc9f7f0fd891f6a8c7bf7ebaa2db6dc6d8eac8ae2818"
        "1afe51c1f368b67756cdb40b10de9b205609e1726e5f27f7c6d824dd9c6649ac"
    ),
}


def platform_name() -> str:
    """This machine in the words of Go and of the official archives, as ``linux-amd64``."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"{platform.system().lower()}-{machine}"


def archive_for(name: str) -> Archive | None:
    """The official archive for a platform, None where there is no checksum for one."""
    checksum = _ARCHIVES.get(name)
    return None if checksum is None else Archive(_ARCHIVE_VERSION, name, checksum)
