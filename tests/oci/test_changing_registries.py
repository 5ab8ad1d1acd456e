"""Compatibility case 12: registries that change, refuse, or are gone; and whom TLS trusts."""

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from otaflux_cli.control_plane.certificates import write_server_certificate
from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    Limits,
    ManifestNotFound,
    RateLimited,
    RegistryClient,
    RegistryError,
    RegistryUnreachable,
    Repository,
    Tls,
    TlsFailed,
    resolve,
)
from otaflux_oci.exchanges import retry_after
from tests.fixtures.loopback_servers import Reply, Request, always
from tests.fixtures.misbehaving_registries import MisbehavingRegistry
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, QUICK, push, read
from tests.fixtures.tls_servers import TlsServer, new_client_certificate

OTHER = b"other firmware"


async def test_case_12_the_tag_moves_in_mid_flow(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    """What was resolved is what is read, although the tag says something else by then."""
    release = await resolve(client, kitchen, tag="1.4.0")

    def swapped(request: Request) -> Reply | None:
        if "/blobs/" in request.path:
            misbehaving.push(NAME, "1.4.0", OTHER)
        return None

    misbehaving.rules.append(swapped)
    assert await read(client, kitchen, release.layer) == FIRMWARE
    assert [request.path.rpartition("/")[2] for request in misbehaving.received] == [
        "1.4.0",
        release.layer.digest,
    ]
    moved = await resolve(client, kitchen, tag="1.4.0")
    assert moved.digest != release.digest
    assert await read(client, kitchen, moved.layer) == OTHER
    assert (await resolve(client, kitchen, digest=release.digest)).layer == release.layer


async def test_case_12_the_tag_moves_on_a_real_registry(
    registry: Registry, oras: Oras, repository: str, tmp_path: Path, client: RegistryClient
) -> None:
    source = Repository(registry.host, repository)
    await push(oras, tmp_path, f"{source}:stable", "--plain-http")
    release = await resolve(client, source, tag="stable")
    (tmp_path / "firmware.bin").write_bytes(OTHER)
    await oras("push", "--plain-http", f"{source}:stable", "firmware.bin", cwd=tmp_path)
    assert await client.digest(source, "stable") != release.digest
    assert await read(client, source, release.layer) == FIRMWARE
    assert (await resolve(client, source, digest=release.digest)).layer == release.layer


async def test_case_12_the_tag_is_deleted(
    registry: Registry, oras: Oras, repository: str, tmp_path: Path, client: RegistryClient
) -> None:
    source = Repository(registry.host, repository)
    await push(oras, tmp_path, f"{source}:1.4.0", "--plain-http")
    release = await resolve(client, source, tag="1.4.0")
    await oras("manifest", "delete", "--plain-http", "--force", f"{source}@{release.digest}")
    for reference in ("1.4.0", release.digest):
        with pytest.raises(ManifestNotFound):
            await client.manifest(source, reference)
    # Until the registry collects its garbage the blob is still there.
    assert await read(client, source, release.layer) == FIRMWARE


async def test_case_12_registry_down_and_up_again(
    registry_program: Path, oras: Oras, tmp_path: Path, client: RegistryClient
) -> None:
    async with Registry(registry_program) as registry:
        source = Repository(registry.host, NAME)
        await push(oras, tmp_path, f"{source}:1.4.0", "--plain-http")
        release = await resolve(client, source, tag="1.4.0")
        await registry.stop()
        with pytest.raises(
            RegistryUnreachable, match=f"No connection to {registry.host}"
        ) as caught:
            await client.manifest(source, "1.4.0")
        assert caught.value.retryable
        with pytest.raises(RegistryUnreachable):
            await read(client, source, release.layer)
        await registry.start()
        assert await resolve(client, source, tag="1.4.0") == release


async def test_case_12_no_such_host(client: RegistryClient) -> None:
    with pytest.raises(RegistryUnreachable, match=r"registry\.invalid"):
        await client.tags(Repository("registry.invalid", NAME))


# --- Retry-After --------------------------------------------------------------------------

CAP = Limits().retry_after_cap_seconds


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("nan", None),
        ("Mon, 99 Foo 2024", None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("301", CAP),
        ("9" * 5000, CAP),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 9999 07:28:00 GMT", CAP),
        ("Wed, 21 Oct 9999 07:28:00", CAP),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", None),
    ],
)
def test_case_12_retry_after(header: str | None, expected: float | None) -> None:
    assert retry_after(header, Limits()) == expected


def test_case_12_retry_after_as_a_date() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=200)
    seconds = retry_after(format_datetime(moment, usegmt=True), Limits())
    assert seconds is not None
    assert 100 < seconds <= 200


@pytest.mark.parametrize("status", [429, 503])
async def test_case_12_absurd_retry_after_is_told_and_not_waited_for(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, status: int
) -> None:
    misbehaving.rules.append(always(Reply(status, {"Retry-After": "31536000"})))
    with pytest.raises(RateLimited, match="in 300 s") as caught:
        await client.manifest(kitchen, "1.4.0")
    assert caught.value.retry_after == CAP
    assert caught.value.retryable
    assert len(misbehaving.received) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_case_12_a_short_one_is_waited_for(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, status: int
) -> None:
    headers = {"Retry-After": "0"}
    misbehaving.rules.append(
        lambda _: Reply(status, headers) if len(misbehaving.received) < 3 else None
    )
    assert (await client.manifest(kitchen, "1.4.0")).layers
    assert len(misbehaving.received) == 3


async def test_case_12_repetitions_are_bounded(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    misbehaving.rules.append(always(Reply(429)))
    with pytest.raises(RateLimited, match="later") as caught:
        await client.manifest(kitchen, "1.4.0")
    assert caught.value.retry_after is None
    assert len(misbehaving.received) == 1 + QUICK.retries


# --- TLS ----------------------------------------------------------------------------------


async def test_case_12_custom_ca_accepted_unknown_ca_refused(
    registry_program: Path, oras: Oras, tmp_path: Path
) -> None:
    certificate = write_server_certificate(tmp_path)
    async with Registry(registry_program, certificate=certificate) as registry:
        reference = f"{registry.host}/{NAME}:1.4.0"
        await push(oras, tmp_path, reference, "--ca-file", str(certificate.authority))
        source = Repository(registry.host, NAME)
        async with RegistryClient(
            settings=LOOPBACK, tls=Tls(ca=certificate.authority.read_bytes())
        ) as client:
            release = await resolve(client, source, tag="1.4.0")
            assert await read(client, source, release.layer) == FIRMWARE
        (tmp_path / "b").mkdir()
        other = write_server_certificate(tmp_path / "b").authority.read_bytes()
        for tls in (None, Tls(ca=other)):
            async with RegistryClient(settings=LOOPBACK, tls=tls, limits=QUICK) as client:
                with pytest.raises(TlsFailed, match=r"not trusted: .*certSecretRef") as caught:
                    await client.manifest(source, "1.4.0")
                assert not caught.value.retryable


async def test_case_12_the_name_has_to_be_right(tmp_path: Path) -> None:
    certificate = write_server_certificate(tmp_path, names=("registry.example.com",))
    async with MisbehavingRegistry(certificate=certificate) as registry:
        registry.push(NAME, "1.4.0", FIRMWARE)
        async with RegistryClient(
            settings=LOOPBACK, tls=Tls(ca=certificate.authority.read_bytes())
        ) as client:
            await client.manifest(Repository(registry.host, NAME), "1.4.0")
            with pytest.raises(TlsFailed, match="localhost"):
                await client.manifest(Repository(registry.other_host, NAME), "1.4.0")


async def test_case_12_https_at_a_plain_registry(registry: Registry) -> None:
    async with RegistryClient(settings=LOOPBACK) as client:
        with pytest.raises(TlsFailed, match=r"spec\.artifact\.insecure"):
            await client.manifest(Repository(registry.host, NAME), "1.4.0")


async def test_case_12_a_client_certificate_is_shown_to_the_registry_only(tmp_path: Path) -> None:
    certificate = write_server_certificate(tmp_path)
    own = new_client_certificate()
    tls = Tls(ca=certificate.authority.read_bytes(), cert=own.certificate, key=own.key)
    with (
        TlsServer(certificate, own, required=False) as storage,
        TlsServer(certificate, own, required=True) as registry,
    ):
        location = f"https://localhost:{storage.port}/"
        registry.reply = (
            f"HTTP/1.1 307 Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        async with RegistryClient(settings=LOOPBACK, tls=tls, limits=QUICK) as client:
            with pytest.raises(RegistryError, match="answers 404"):
                await client.tags(Repository(f"127.0.0.1:{registry.port}", NAME))
    assert registry.clients == [ssl.PEM_cert_to_DER_cert(own.certificate.decode())]
    assert storage.clients == [None]


async def test_case_12_a_registry_that_wants_a_client_certificate(tmp_path: Path) -> None:
    certificate = write_server_certificate(tmp_path)
    own, other = new_client_certificate(), new_client_certificate()
    ca = certificate.authority.read_bytes()
    with TlsServer(certificate, own, required=True) as registry:
        repository = Repository(f"127.0.0.1:{registry.port}", NAME)
        for tls in (Tls(ca=ca), Tls(ca=ca, cert=other.certificate, key=other.key)):
            async with RegistryClient(settings=LOOPBACK, tls=tls, limits=QUICK) as client:
                with pytest.raises(TlsFailed, match=r"client certificate \(tls\.crt and tls\.key"):
                    await client.manifest(repository, "1.4.0")
        assert not registry.clients
