"""`otaflux device cert`: judged by the real openssl, and by real TLS handshakes."""

import contextlib
import json
import re
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from otaflux_cli.control_plane.certificates import ServerCertificate, write_server_certificate
from otaflux_server.settings.identities import DEVICE_PATTERN
from tests.cli.commands import otaflux_here

CERT = ("device", "cert")


def run(*arguments: str | Path) -> str:
    ended = otaflux_here(*CERT, *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def refused(*arguments: str | Path) -> str:
    ended = otaflux_here(*CERT, *arguments)
    assert ended.returncode in (1, 2), ended.stdout
    return ended.stderr


def openssl(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def verified(certificate: Path, ca: Path, *, crl: Path | None = None) -> bool:
    lists = () if crl is None else ("-crl_check", "-CRLfile", crl)
    purpose = ("-x509_strict", "-purpose", "sslclient")
    return not openssl("verify", *purpose, "-CAfile", ca, *lists, certificate).returncode


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    run("ca", "create", "--ca", tmp_path / "ca")
    return tmp_path / "ca"


@pytest.fixture
def issued(ca: Path, tmp_path: Path) -> Path:
    run("create", "kitchen-1", "-n", "homes", "--ca", ca, "--out", tmp_path)
    return tmp_path / "kitchen-1.crt"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return write_server_certificate(tmp_path_factory.mktemp("server"))


def handshake(server: ServerCertificate, ca: Path, certificate: Path) -> Any:
    """What the server sees of the client's certificate; raises ssl.SSLError."""
    ends = []
    for side, purpose in enumerate((ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)):
        context = ssl.SSLContext(purpose)
        if side:
            context.load_cert_chain(server.certificate, server.key)
            context.load_verify_locations(ca / "ca.crt")
            context.load_verify_locations(ca / "crl.pem")
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
        else:
            context.load_verify_locations(server.authority)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        ends.append((context, ssl.MemoryBIO(), ssl.MemoryBIO()))
    (client_context, to_client, from_client), (server_context, to_server, from_server) = ends
    client = client_context.wrap_bio(to_client, from_client, server_hostname="localhost")
    accepting = server_context.wrap_bio(to_server, from_server, server_side=True)
    for _ in range(4):
        for end in (client, accepting):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
            to_server.write(from_client.read())
            to_client.write(from_server.read())
    return accepting.getpeercert()


def test_openssl_accepts_what_is_issued_until_it_is_revoked(ca: Path, issued: Path) -> None:
    authority, crl = ca / "ca.crt", ca / "crl.pem"
    assert verified(issued, authority)
    assert verified(issued, authority, crl=crl), "there is an empty list from the beginning"
    run("revoke", issued, "--ca", ca)
    assert verified(issued, authority)
    assert not verified(issued, authority, crl=crl)
    text = openssl("crl", "-in", crl, "-noout", "-text", "-CAfile", authority)
    assert "verify OK" in text.stderr
    assert re.search(r"X509v3 CRL Number:\s+2\n", text.stdout), text.stdout


def test_a_server_accepts_what_is_issued_until_it_is_revoked(
    server: ServerCertificate, ca: Path, issued: Path
) -> None:
    seen = handshake(server, ca, issued)
    assert seen is not None
    assert seen["subjectAltName"] == (("URI", "otaflux://homes/kitchen-1"),)
    run("revoke", issued, "--ca", ca)
    with pytest.raises(ssl.SSLError, match="revoked"):
        handshake(server, ca, issued)


def test_the_certificate_names_the_device_as_the_server_expects(issued: Path) -> None:
    certificate = x509.load_pem_x509_certificate(issued.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    found = re.fullmatch(DEVICE_PATTERN, uri)
    assert found is not None
    assert (found["namespace"], found["device"]) == ("homes", "kitchen-1")
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert stat.S_IMODE(issued.with_suffix(".key").stat().st_mode) == 0o600


def test_keys_are_readable_by_their_owner_only_and_the_rest_by_a_server(ca: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ca.iterdir()}
    assert modes == {"ca.key": 0o600, "ca.crt": 0o644, "crl.pem": 0o644}


def test_a_long_id_has_no_common_name(ca: Path, tmp_path: Path) -> None:
    device = "d" + ":x" * 63
    run("create", device, "-n", "homes", "--ca", ca, "--out", tmp_path)
    file = tmp_path / f"{device}.crt"
    assert not x509.load_pem_x509_certificate(file.read_bytes()).subject.rdns
    assert verified(file, ca / "ca.crt")


@pytest.mark.parametrize(
    "kind", [("ec", "ec_paramgen_curve:P-384"), ("rsa", "rsa_keygen_bits:2048")]
)
def test_with_a_request_the_key_stays_on_the_device(
    server: ServerCertificate, ca: Path, tmp_path: Path, kind: tuple[str, str]
) -> None:
    key, request = tmp_path / "device.key", tmp_path / "device.csr"
    made = openssl(
        *("req", "-new", "-newkey", kind[0], "-pkeyopt", kind[1], "-nodes", "-subj", "/CN=other-9"),
        *("-addext", "subjectAltName=URI:otaflux://other/other-9", "-keyout", key, "-out", request),
    )
    assert made.returncode == 0, made.stderr
    run("create", "hall-1", "-n", "homes", "--ca", ca, "--csr", request, "--out", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["hall-1.crt"]
    (tmp_path / "new" / "hall-1.key").write_bytes(key.read_bytes())
    seen = handshake(server, ca, tmp_path / "new" / "hall-1.crt")
    assert seen is not None
    assert seen["subjectAltName"] == (("URI", "otaflux://homes/hall-1"),), "as told, not as asked"


def test_requests_that_cannot_be_trusted_are_refused(ca: Path, tmp_path: Path) -> None:
    request = tmp_path / "device.csr"

    def say(content: bytes) -> str:
        request.write_bytes(content)
        said = refused("create", "a", "-n", "h", "--ca", ca, "--csr", request, "--out", tmp_path)
        assert not (tmp_path / "a.crt").exists()
        return said

    assert "no certificate request" in say(b"nothing")
    made = openssl(
        *("req", "-new", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=a"),
        *("-keyout", tmp_path / "k", "-outform", "DER", "-out", request),
    )
    assert made.returncode == 0, made.stderr
    weak = openssl("req", "-inform", "DER", "-in", request).stdout.encode()
    assert "RSA of 2048 bits" in say(weak)
    # A curve that our library does not know.
    openssl("genpkey", "-algorithm", "SM2", "-out", tmp_path / "k")
    made = openssl("req", "-new", "-sm3", "-key", tmp_path / "k", "-subj", "/CN=a")
    assert made.returncode == 0, made.stderr
    assert "RSA of 2048 bits" in say(made.stdout.encode())
    forged = bytearray(openssl_der(weak, tmp_path))
    forged[-1] ^= 1  # in its signature
    (tmp_path / "forged.der").write_bytes(forged)
    text = openssl("req", "-inform", "DER", "-in", tmp_path / "forged.der").stdout
    assert "not signed by the key" in say(text.encode())


def openssl_der(pem: bytes, folder: Path) -> bytes:
    (folder / "in.pem").write_bytes(pem)
    openssl("req", "-in", folder / "in.pem", "-outform", "DER", "-out", folder / "out.der")
    return (folder / "out.der").read_bytes()


def test_list_shows_what_was_issued_and_revoked(ca: Path, issued: Path, tmp_path: Path) -> None:
    run("create", "hall-1", "-n", "other", "--ca", ca, "--out", tmp_path)
    serial = openssl("x509", "-in", issued, "-noout", "-serial").stdout.strip().split("=")[1]
    run("revoke", ":".join(re.findall("..", serial.lower())), "--ca", ca)

    def states(*arguments: str) -> list[tuple[str, str, str]]:
        found = json.loads(run("list", "--ca", ca, "-o", "json", *arguments))
        return [(one["device"], one["serial"], one["state"]) for one in found]

    assert ("kitchen-1", serial, "revoked") in states()
    assert [(device, state) for device, _, state in states("-n", "other")] == [("hall-1", "valid")]
    assert "is revoked already" in refused("revoke", serial, "--ca", ca)
    assert "nothing was revoked" in refused("revoke", "ABCDEF", "--ca", ca)
    assert "neither a file nor a serial" in refused("revoke", "kitchen", "--ca", ca)


def test_a_foreign_certificate_is_not_revoked(
    ca: Path, issued: Path, server: ServerCertificate
) -> None:
    before = (ca / "crl.pem").read_bytes()
    assert "was not issued by" in refused("revoke", server.certificate, "--ca", ca)
    assert (ca / "crl.pem").read_bytes() == before


def test_what_was_revoked_stays_so_also_without_the_index(
    server: ServerCertificate, ca: Path, issued: Path
) -> None:
    run("revoke", issued, "--ca", ca)
    (ca / "issued.jsonl").unlink()
    run("crl", "--ca", ca, "--crl-days", "7")
    with pytest.raises(ssl.SSLError, match="revoked"):
        handshake(server, ca, issued)
    crl = x509.load_pem_x509_crl((ca / "crl.pem").read_bytes())
    assert crl.next_update_utc is not None
    assert (crl.next_update_utc - crl.last_update_utc).days == 7
    warned = otaflux_here(*CERT, "list", "--ca", ca).stderr
    assert "then servers refuse every device" in warned


def test_an_authority_is_never_replaced(ca: Path) -> None:
    before = {path: path.read_bytes() for path in ca.iterdir()}
    assert "nothing was changed" in refused("ca", "create", "--ca", ca)
    assert {path: path.read_bytes() for path in ca.iterdir()} == before


def test_nothing_is_written_over(ca: Path, issued: Path) -> None:
    before = issued.read_bytes()
    assert "is there already" in refused(
        "create", "kitchen-1", "-n", "homes", "--ca", ca, "--out", issued.parent
    )
    assert issued.read_bytes() == before


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    run("ca", "create", "--ca", tmp_path / "ca", "--days", "30")
    said = refused("create", "a", "-n", "h", "--ca", tmp_path / "ca", "--out", tmp_path)
    assert "Give at most --days 30" in said
    assert not (tmp_path / "ca" / "issued.jsonl").exists()


def test_an_authority_of_cert_manager_issues_with_its_chain(
    server: ServerCertificate, tmp_path: Path
) -> None:
    ca = tmp_path / "ca"
    ca.mkdir()
    (tmp_path / "x").write_text(
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    new = "-newkey rsa:2048 -nodes -subj"
    steps = (
        f"req -x509 {new} /CN=root -keyout {tmp_path}/r.key -out {ca}/root -days 3650 "
        "-addext keyUsage=critical,keyCertSign,cRLSign",
        f"req -new {new} /CN=mid -keyout {ca}/tls.key -out {tmp_path}/m.csr",
        f"x509 -req -in {tmp_path}/m.csr -CA {ca}/root -CAkey {tmp_path}/r.key -CAcreateserial "
        f"-extfile {tmp_path}/x -out {ca}/tls.crt -days 3650",
    )
    for step in steps:
        made = openssl(*step.split())
        assert made.returncode == 0, made.stderr
    run("create", "kitchen-1", "-n", "homes", "--ca", ca, "--out", tmp_path)
    run("crl", "--ca", ca)
    (ca / "ca.crt").write_bytes((ca / "root").read_bytes())
    assert handshake(server, ca, tmp_path / "kitchen-1.crt") is not None
    run("revoke", tmp_path / "kitchen-1.crt", "--ca", ca)
    with pytest.raises(ssl.SSLError, match="revoked"):
        handshake(server, ca, tmp_path / "kitchen-1.crt")


def test_damaged_authorities_are_refused_and_say_what_is_wrong(ca: Path, tmp_path: Path) -> None:
    def say() -> str:
        return refused("create", "a", "-n", "h", "--ca", ca, "--out", tmp_path)

    key = (ca / "ca.key").read_bytes()
    run("ca", "create", "--ca", tmp_path / "other")
    (ca / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    assert "do not belong together" in say()
    (ca / "ca.key").write_text("nothing")
    assert "no unencrypted private key" in say()
    (ca / "ca.key").unlink()
    assert "there is no authority in" in say()
    (ca / "ca.key").write_bytes(key)
    (ca / "issued.jsonl").write_text("nothing\n")
    assert "line 1 of issued.jsonl" in say()
    (ca / "crl.pem").write_bytes((tmp_path / "other" / "crl.pem").read_bytes())
    assert "not signed by the authority" in refused("list", "--ca", ca)
    assert not (tmp_path / "a.crt").exists()
