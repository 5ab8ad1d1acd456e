"""Manifests from files: each kind of mistake is named with its file, document and field."""

from pathlib import Path

import pytest

from otaflux_cli.standalone.databases import Database
from otaflux_cli.standalone.folders import ManifestFolder
from otaflux_cli.standalone.manifests import InvalidFile, read_file, read_folder
from otaflux_operator.ports import Key, Kind

ROLLOUT = """
apiVersion: otaflux.io/v1alpha1
kind: FirmwareRollout
metadata: {name: thermostat}
spec:
  artifact: {repository: localhost/firmware, tag: 1.4.0}
  deviceSelector: {}
  rings: [{name: all}]
"""
GROUP = """
apiVersion: otaflux.io/v1alpha1
kind: DeviceGroup
metadata: {name: canaries, namespace: tenant-a}
spec: {names: [kitchen-1], labels: {ring: canary}}
"""
THERMOSTAT = Key(Kind.ROLLOUT, "default", "thermostat")
CANARIES = Key(Kind.GROUP, "tenant-a", "canaries")


def written(folder: Path, text: str, name: str = "manifests.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_file_may_hold_several_documents(tmp_path: Path) -> None:
    content = read_file(written(tmp_path, f"---\n{ROLLOUT}---\n{GROUP}---\n"))
    assert set(content.manifests) == {THERMOSTAT, CANARIES}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "line 1"),
        ("a: 1\na: 2", "line 2, column 1: a stands twice"),
        ("a: &x 1\nb: *x", "aliases"),
        ("just text", "write an object"),
        ("kind: Deployment", "FirmwareRollout, DeviceGroup and Secret"),
        (ROLLOUT.replace("v1alpha1", "v2"), "apiVersion: write otaflux.io/v1alpha1"),
        (ROLLOUT.replace("tag: 1.4.0", "tag: 1.4"), "spec.artifact.tag: write a text, in quotes"),
        (ROLLOUT.replace("rings:", "ring:"), "spec.ring: remove it or correct its name"),
        (ROLLOUT.replace("tag: 1.4.0", "tag: a, semver: '1'"), "exactly one of tag"),
        (ROLLOUT.replace("thermostat", "Thermo_stat"), "metadata.name: write the name"),
        (GROUP.replace("tenant-a", "Tenant_A"), "metadata.namespace: write lower case"),
        (ROLLOUT.replace("{name: all}", "{name: all, percent: .nan}"), "spec.rings[0].percent"),
        (f"{ROLLOUT}---\n{ROLLOUT}", "document 2: FirmwareRollout default/thermostat is there"),
        (f"{GROUP}---\nkind: X", "document 2: kind"),
        ("!!python/object:os.system {}", "constructor"),
        ("kind: Secret\nmetadata: {name: a}\ndata: {a: '!hunter2!'}", "data.a: write base64"),
        ("kind: Secret\nmetadata: {name: a}\nstringData: {a: 1}", "stringData: write an object"),
        ("kind: Secret", "metadata.name"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        read_file(written(tmp_path, text))
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_binary_and_deeply_nested_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00\x01\xff")
    written(tmp_path, "[" * 20_000, "b.yaml")
    (tmp_path / "c.yaml").mkdir()
    read = read_folder(tmp_path)
    assert read.files == {}
    assert set(read.problems) == {"a.yaml", "b.yaml", "c.yaml"}


def test_an_object_of_two_files_belongs_to_the_first(tmp_path: Path) -> None:
    written(tmp_path, ROLLOUT, "a.yaml")
    written(tmp_path, ROLLOUT + "---\n" + GROUP, "b.yml")
    written(tmp_path, "not looked at", "README.md")
    read = read_folder(tmp_path)
    assert set(read.files) == {"a.yaml"}
    assert "is in a.yaml already" in read.problems["b.yml"][0]


def test_a_secret_is_decoded_and_never_shown(tmp_path: Path) -> None:
    content = read_file(
        written(
            tmp_path,
            "kind: Secret\nmetadata: {name: harbor}\n"
            "data: {a: aHVudGVyMg==}\nstringData: {b: hunter3}\n",
        )
    )
    assert content.secrets == {("default", "harbor"): {"a": b"hunter2", "b": b"hunter3"}}
    assert "hunter" not in repr(content)


async def test_a_broken_file_keeps_its_last_valid_content(tmp_path: Path) -> None:
    manifests, data = tmp_path / "manifests", tmp_path / "data"
    manifests.mkdir()
    data.mkdir()
    database = Database(data)
    folder = ManifestFolder(manifests, database)
    file = written(manifests, ROLLOUT)
    assert await folder.load() == {THERMOSTAT}
    assert await folder.load() == set()
    first = database.resource(THERMOSTAT)
    assert first is not None
    assert first["metadata"]["generation"] == 1

    file.write_text(ROLLOUT.replace("tag: 1.4.0", "tag: 1.5.0"))
    assert await folder.load() == {THERMOSTAT}
    file.write_text(ROLLOUT.replace("rings:", "ring:"))
    assert await folder.load() == set()
    assert "spec.ring" in folder.problems["manifests.yaml"][0]
    database.close()

    database = Database(data)
    folder = ManifestFolder(manifests, database)
    assert await folder.load() == set(), "also after a restart"
    kept = database.resource(THERMOSTAT)
    assert kept is not None
    assert kept["spec"]["artifact"]["tag"] == "1.5.0"
    assert kept["metadata"]["generation"] == 2
    assert kept["metadata"]["uid"] == first["metadata"]["uid"]

    file.unlink()
    assert await folder.load() == {THERMOSTAT}
    assert database.keys() == set()
    file.write_text(ROLLOUT)
    await folder.load()
    again = database.resource(THERMOSTAT)
    assert again is not None
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    database.close()


async def test_a_new_secret_has_every_rollout_looked_at(tmp_path: Path) -> None:
    database = Database(tmp_path)
    folder = ManifestFolder(tmp_path, database)
    written(tmp_path, ROLLOUT)
    await folder.load()
    secret = "kind: Secret\nmetadata: {name: harbor}\nstringData: {a: b}\n"
    written(tmp_path, secret, "secret.yaml")
    assert await folder.load() == {THERMOSTAT}
    assert folder.secret(("default", "harbor")) == {"a": b"b"}
    assert await folder.load() == set()
    written(tmp_path, "kind: nonsense", "secret.yaml")
    await folder.load()
    assert folder.secret(("default", "harbor")) == {"a": b"b"}
    (tmp_path / "secret.yaml").unlink()
    assert await folder.load() == {THERMOSTAT}
    assert folder.secret(("default", "harbor")) is None
    database.close()
