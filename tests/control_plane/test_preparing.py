"""Getting the parts: archive, Go, and who waits for whom."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from otaflux_cli.control_plane import PartMissing, find
from otaflux_cli.control_plane.archives import ArchiveUnavailable, install_archive
from otaflux_cli.control_plane.builds import BuildFailed, GoUnusable, build_part, find_go
from otaflux_cli.control_plane.caches import Cache
from otaflux_cli.control_plane.pins import PARTS, Archive
from otaflux_cli.control_plane.preparing import Progress, duration, missing_parts, prepare

PROGRAMS = ("etcd", "kube-apiserver", "kubectl")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a test's output is for failures."""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that it is served at."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine decides what these tests see."""
    for name in ("OTAFLUX_CONTROL_PLANE", "KUBEBUILDER_ASSETS", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def publish(site: tuple[Path, str], programs: tuple[str, ...] = PROGRAMS) -> Archive:
    """Put an archive with these programs on the site, and say what to expect of it."""
    folder, url = site
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in programs:
            member = tarfile.TarInfo(f"controller-tools/envtest/{name}")
            body = f"#!/bin/sh\necho {name}\n".encode()
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    checksum = hashlib.sha512(content.getvalue()).hexdigest()
    offered = Archive("v1.2.3", "anywhere", checksum, base_url=url)
    target = folder / offered.url.removeprefix(f"{url}/")
    target.parent.mkdir(parents=True)
    target.write_bytes(content.getvalue())
    return offered


def only_entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_archive_is_unpacked(site: tuple[Path, str], cache: Cache) -> None:
    archive = publish(site)
    folder = install_archive(archive, cache)
    assert only_entries(folder) == sorted(PROGRAMS)
    assert subprocess.check_output([folder / "kubectl"], text=True) == "kubectl\n"
    assert only_entries(cache.root / "tmp") == []


def test_another_checksum_is_refused_and_nothing_kept(site: tuple[Path, str], cache: Cache) -> None:
    archive = replace(publish(site), sha512="0" * 128)
    with pytest.raises(ArchiveUnavailable, match=r"not 0{128}; refused"):
        install_archive(archive, cache)
    assert only_entries(cache.binaries) == []
    assert only_entries(cache.root / "tmp") == []


def test_an_archive_without_a_program_is_refused(site: tuple[Path, str], cache: Cache) -> None:
    with pytest.raises(ArchiveUnavailable, match="holds no kubectl"):
        install_archive(publish(site, ("etcd", "kube-apiserver")), cache)
    assert only_entries(cache.binaries) == []


def test_an_absent_or_unreachable_archive_is_told(site: tuple[Path, str], cache: Cache) -> None:
    archive = Archive("v1.2.3", "anywhere", "0" * 128, base_url=site[1])
    with pytest.raises(ArchiveUnavailable, match="404"):
        install_archive(archive, cache)
    with pytest.raises(ArchiveUnavailable, match="refused"):
        install_archive(replace(archive, base_url="http://127.0.0.1:1"), cache)


def test_an_oversize_archive_is_refused(
    site: tuple[Path, str], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otaflux_cli.control_plane.archives._MAX_BYTES", 10)
    with pytest.raises(ArchiveUnavailable, match="more than 10 bytes"):
        install_archive(publish(site), cache)


def test_prepare_takes_the_archive_and_asks_go_for_nothing(
    site: tuple[Path, str], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = publish(site)
    monkeypatch.setattr("otaflux_cli.control_plane.finding.archive_for", lambda _: archive)
    monkeypatch.setenv("PATH", "/nowhere")
    said = io.StringIO()
    found = prepare(PROGRAMS, cache=cache, archive=archive, progress=Progress(said))
    assert {name: part.source for name, part in found.items()} == dict.fromkeys(PROGRAMS, "archive")
    assert said.getvalue() == f"fetching {archive.url}\n"


def test_without_archive_and_go_it_says_what_to_install(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive("v1.2.3", "anywhere", "0" * 128, base_url="http://127.0.0.1:1")
    monkeypatch.setenv("PATH", "/nowhere")
    said = io.StringIO()
    with pytest.raises(GoUnusable, match=r"no `go` on PATH: install Go 1\.26 or newer"):
        prepare(("etcd",), cache=cache, archive=archive, progress=Progress(said))
    assert "not from the official archive" in said.getvalue()


def test_an_unknown_part_is_refused(cache: Cache) -> None:
    with pytest.raises(PartMissing, match="no such part; parts are etcd"):
        missing_parts(("docker",), cache=cache)


def test_what_most_tests_need_is_built_first(cache: Cache) -> None:
    missing = [part.name for part in missing_parts(cache=cache)]
    assert missing == list(PARTS)
    assert missing[:3] == list(PROGRAMS)
    assert missing[-1] == "kube-controller-manager"


FAKE_GO = """#!/bin/sh
case "$1 $2" in
"env GOVERSION") echo go1.26.8;;
"env GOFLAGS") echo -tags=mine;;
*)
  env > "{folder}/environment"
  echo "$@" > "{folder}/arguments"
  {body}
esac
"""


@pytest.fixture
def fake_go(tmp_path: Path) -> Path:
    """A ``go`` that writes down how it was called and makes an ``oras`` that greets."""
    return write_fake_go(
        tmp_path, "printf '#!/bin/sh\\necho hello\\n' > $GOBIN/oras; chmod +x $GOBIN/oras"
    )


def write_fake_go(folder: Path, body: str) -> Path:
    path = folder / "go"
    path.write_text(FAKE_GO.format(folder=folder, body=body))
    path.chmod(0o755)
    return path


def test_go_builds_with_pins_and_its_caches_inside_ours(
    fake_go: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPROXY", "https://proxy.example.com")
    monkeypatch.setenv("GOARCH", "riscv64")
    built = build_part(PARTS["oras"], fake_go, cache)
    assert subprocess.check_output([built], text=True) == "hello\n"
    arguments = (fake_go.parent / "arguments").read_text()
    assert arguments.endswith(f"oras.land/oras/cmd/oras@{PARTS['oras'].version}\n")
    environment = (fake_go.parent / "environment").read_text().splitlines()
    assert f"GOMODCACHE={cache.root}/go/mod" in environment
    assert f"GOCACHE={cache.root}/go/build" in environment
    assert "GOFLAGS=-tags=mine -modcacherw -buildvcs=false" in environment
    assert "GOTOOLCHAIN=local" in environment
    assert "GOPROXY=https://proxy.example.com" in environment
    assert not any(line.startswith("GOARCH=") for line in environment)


def test_a_failed_build_is_told_with_the_end_of_what_go_said(tmp_path: Path, cache: Cache) -> None:
    go = write_fake_go(tmp_path, "echo module lost >&2; exit 1")
    with pytest.raises(BuildFailed, match=r"building oras v1.*\nmodule lost"):
        build_part(PARTS["oras"], go, cache)
    assert only_entries(cache.binaries) == []
    assert only_entries(cache.root / "tmp") == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [("go1.25.9", r"is go1\.25\.9: install Go 1\.26"), ("what", "does not tell its version")],
)
def test_an_old_go_is_refused(tmp_path: Path, answer: str, message: str) -> None:
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho {answer}\n")
    go.chmod(0o755)
    with pytest.raises(GoUnusable, match=message):
        find_go({"PATH": str(tmp_path)})


def test_two_that_prepare_take_turns_and_the_second_builds_nothing(
    fake_go: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{fake_go.parent}:/usr/bin:/bin")
    monkeypatch.setenv("OTAFLUX_CONTROL_PLANE", "go")
    waiting = threading.Event()
    said = io.StringIO()

    class Watched(Progress):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("waiting"):
                waiting.set()

    second = threading.Thread(
        target=prepare, args=(("oras",),), kwargs={"cache": cache, "progress": Watched(said)}
    )
    with cache.lock():
        second.start()
        assert waiting.wait(30)
        build_part(PARTS["oras"], fake_go, cache)
        (fake_go.parent / "arguments").unlink()
    second.join(30)
    assert not second.is_alive()
    assert said.getvalue() == f"waiting: process {os.getpid()} is preparing {cache.root}\n"
    assert not (fake_go.parent / "arguments").exists()
    assert find("oras", cache=cache) is not None


def test_the_lock_of_a_killed_holder_is_free(cache: Cache, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, signal\n"
        "from otaflux_cli.control_plane.caches import Cache\n"
        "with Cache(pathlib.Path(sys.argv[1])).lock():\n"
        "    print('held', flush=True)\n"
        "    signal.pause()\n"
    )
    command = [sys.executable, "-c", program, str(cache.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
        holder.wait()
    with cache.lock(lambda pid: pytest.fail(f"{pid} holds it")):
        pass


def test_what_a_killed_process_was_making_is_swept(fake_go: Path, cache: Cache) -> None:
    (cache.root / "tmp" / "half").mkdir(parents=True)
    cache.sweep()
    assert not (cache.root / "tmp").exists()
    build_part(PARTS["oras"], fake_go, cache)


def test_a_folder_that_was_torn_is_replaced(cache: Cache) -> None:
    (cache.binaries / "x").mkdir(parents=True)
    (cache.binaries / "x" / "torn").touch()
    with cache.installing("x") as staging:
        (staging / "whole").touch()
    assert only_entries(cache.binaries / "x") == ["whole"]
    assert only_entries(cache.root / "tmp") == []


def test_progress_renews_one_line_on_a_terminal_and_is_sparse_in_a_log() -> None:
    log = io.StringIO()
    tick = Progress(log).building("[1/2] etcd")
    for seconds in (1.0, 29.0, 30.0, 31.0, 200.0):
        tick(seconds)
    assert log.getvalue().splitlines() == ["[1/2] etcd", "  … 30 s", "  … 3.3 min"]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    tick = Progress(terminal).building("[1/2] etcd")
    tick(1.0)
    tick(2.0)
    assert terminal.getvalue().endswith("\r\x1b[K  … 1 s\r\x1b[K  … 2 s")
    assert duration(119) == "119 s"


def test_the_command_line_needs_nothing_but_python() -> None:
    """It runs before anything is installed: on a bare interpreter, by path alone."""
    command = [sys.executable, "-I", "-S", "-c"]
    program = (
        "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); sys.argv[1:] = ['where'];"
        "runpy.run_module('otaflux_cli.control_plane', run_name='__main__')"
    )
    source = str(Path(__file__).parents[2] / "cli")
    answer = subprocess.run(
        [*command, program, source], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert '"kube-apiserver"' in answer.stdout
